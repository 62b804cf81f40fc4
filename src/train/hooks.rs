//! Hooks into the training step, for methods that do more than follow the gradient of the loss.

use crate::Result;
use crate::params::Tensors;

/// A hook that runs in every training step. Its state is saved in checkpoints.
///
/// ```text
/// gradients of all micro-batches ─► gradients ─► clipping ─► optimizer ─► updated
/// ```
pub trait StepHook {
    /// Modifies the gradients in place, for example to add those of a penalty. They are multiplied by `scale`;
    /// both maps are keyed by parameter name.
    ///
    /// # Errors
    /// Errors from MLX.
    fn on_gradients(&self, parameters: &Tensors, grads: &mut Tensors, scale: f32) -> Result<()>;

    /// Called after the optimizer step `step` (1-based); may modify the parameters. The optimizer has seen `grads`
    /// multiplied by `grad_scale`.
    ///
    /// # Errors
    /// Errors from MLX.
    fn after_step(
        &mut self,
        step: u64,
        grads: &Tensors,
        grad_scale: f32,
        parameters: &mut Tensors,
    ) -> Result<()>;

    /// Returns the state that a checkpoint has to store, under names that no other hook uses.
    fn state(&self) -> Tensors;

    /// Restores [`state`](Self::state) from the merged state of all hooks. `parameters` are those of the same
    /// step.
    ///
    /// # Errors
    /// A state that does not match `parameters`.
    fn load_state(&mut self, state: &Tensors, parameters: &Tensors) -> Result<()>;
}
