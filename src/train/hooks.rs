//! What a way of fine-tuning may do besides following the gradient of the loss.

use crate::Result;
use crate::params::Tensors;

/// Takes part in every step, and has a memory that goes into checkpoints.
///
/// ```text
/// gradients of all micro-batches ─► gradients ─► clipping ─► optimizer ─► updated
/// ```
pub trait StepHook {
    /// Changes the gradients, which are `scale` times those of the loss, such as by those of a penalty; both by
    /// parameter name.
    ///
    /// # Errors
    /// What MLX raises.
    fn on_gradients(&self, parameters: &Tensors, grads: &mut Tensors, scale: f32) -> Result<()>;

    /// Follows the update of `step` (1-based) and may change the parameters again. The optimizer saw `grads`
    /// times `grad_scale`.
    ///
    /// # Errors
    /// What MLX raises.
    fn after_step(
        &mut self,
        step: u64,
        grads: &Tensors,
        grad_scale: f32,
        parameters: &mut Tensors,
    ) -> Result<()>;

    /// Everything it remembers from step to step, under names that no other hook has.
    fn state(&self) -> Tensors;

    /// Takes back what [`state`](Self::state) gave, out of the state of all hooks; `parameters` are those of the same step.
    ///
    /// # Errors
    /// A state that does not belong to such parameters.
    fn load_state(&mut self, state: &Tensors, parameters: &Tensors) -> Result<()>;
}
