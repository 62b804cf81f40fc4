//! Training of pruned models: weights that were zero stay zero.

use std::collections::BTreeSet;

use mlx_rs::Array;

use super::hooks::StepHook;
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Result, kernels};

/// Sets weights that were zero before training to zero after every step. The masks are those of the model before
/// training, from which a resumed run starts too, so that checkpoints hold nothing of them.
#[derive(Debug)]
pub struct SparsityMasks {
    /// One where a weight may change, by parameter.
    masks: Tensors,
}

impl SparsityMasks {
    /// Masks of those of the parameters `names` of `model` that are weights of `layers`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new<M: Network + ?Sized>(model: &M, layers: &BTreeSet<String>, names: &[String]) -> Result<Self> {
        let parameters = model.parameters().flatten();
        let mut masks = Tensors::new();
        for name in names {
            let pruned = name.strip_suffix(".weight").is_some_and(|path| layers.contains(path));
            if let Some(weight) = parameters.get(name.as_str()).filter(|_| pruned) {
                let mask = weight.ne(Array::from_f32(0.0).as_dtype(weight.dtype())?)?;
                kernels::eval([&mask])?;
                masks.insert(name.clone(), mask);
            }
        }
        Ok(Self { masks })
    }

    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.masks.is_empty()
    }
}

impl StepHook for SparsityMasks {
    fn on_gradients(&self, _parameters: &Tensors, _grads: &mut Tensors, _scale: f32) -> Result<()> {
        Ok(())
    }

    fn after_step(
        &mut self,
        _step: u64,
        _grads: &Tensors,
        _grad_scale: f32,
        parameters: &mut Tensors,
    ) -> Result<()> {
        for (name, mask) in &self.masks {
            if let Some(parameter) = parameters.get_mut(name) {
                *parameter = parameter.multiply(mask.as_dtype(parameter.dtype())?)?;
            }
        }
        kernels::eval(self.masks.keys().filter_map(|name| parameters.get(name)))?;
        Ok(())
    }

    fn state(&self) -> Tensors {
        Tensors::new()
    }

    fn load_state(&mut self, _state: &Tensors, _parameters: &Tensors) -> Result<()> {
        Ok(())
    }
}
