//! Optimizers.
//!
//! | name | state of a parameter `[m, n]` | typical learning rate |
//! |---|---|---|
//! | [`adamw`](adamw) | two moments, 2mn | 1e-4 to 3e-4 for adapters, 1e-5 to 5e-5 for full fine-tuning |
//! | [`adam`](adam) | two moments, 2mn | as `adamw` |
//! | [`sgd`](sgd) | a velocity, mn; nothing without momentum | 100 to 1000 times that of `adamw` |
//! | [`adafactor`](adafactor) | means of rows and columns, m + n | 1 to 3 times that of `adamw` |
//! | [`lion`](lion) | a momentum, mn | 0.1 to 0.3 times that of `adamw`, with a larger weight decay |
//! | [`muon`](muon) | a momentum, mn | as `adamw` |
//!
//! The state is kept in float32, as named tensors, so that checkpoints restore it exactly.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::{select, zeros_like};
use serde::{Deserialize, Serialize};

use crate::kernels::graphs::Graphs;
use crate::kernels::{async_eval, eval};
use crate::params::Tensors;
use crate::{Error, Result};

mod adafactor;
mod adam;
mod adamw;
mod lion;
pub mod lr_multipliers;
mod muon;
mod rule;
mod sgd;

use adafactor::Adafactor;
use adam::Adam;
use adamw::AdamW;
use lion::Lion;
use lr_multipliers::LrMultipliers;
use muon::Muon;
use rule::{Scalars, Slot, Tensor, UpdateRule};
use sgd::Sgd;

/// Kind of optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`adamw`]
    #[default]
    AdamW,
    /// [`adam`]
    Adam,
    /// [`sgd`]
    Sgd,
    /// [`adafactor`]
    Adafactor,
    /// [`lion`]
    Lion,
    /// [`muon`]
    Muon,
}

/// Hyperparameters of all optimizers; fields that `kind` does not use are ignored.
#[derive(Debug, Clone, Copy)]
pub struct OptimizerSettings {
    /// Kind of optimizer.
    pub kind: OptimizerKind,
    /// Momentum of SGD (`None`: 0.9) and Muon (`None`: 0.95).
    pub momentum: Option<f64>,
    /// Whether SGD uses Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay; `None` for 0.01 with `AdamW`, Lion and Muon, 0 with the others.
    pub weight_decay: Option<f64>,
    /// Decay of the first moment of Adam and `AdamW`; interpolation factor of Lion.
    pub beta1: f64,
    /// Decay of the second moment of Adam and `AdamW` (`None`: 0.999); of the momentum of Lion (`None`: 0.99).
    pub beta2: Option<f64>,
    /// Term added to the denominator of Adam and `AdamW`.
    pub eps: f64,
}

/// An optimizer with its hyperparameters.
#[derive(Debug, Clone, Copy)]
pub struct Optimizer {
    rule: AnyRule,
}

#[derive(Debug, Clone, Copy)]
enum AnyRule {
    AdamW(AdamW),
    Adam(Adam),
    Sgd(Sgd),
    Adafactor(Adafactor),
    Lion(Lion),
    Muon(Muon),
}

/// State of an optimizer.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Tensors named `<slot>.<parameter>`, in float32.
    pub tensors: Tensors,
    /// Number of updates.
    pub updates: u64,
}

/// Arguments of an optimizer step.
#[derive(Debug)]
pub struct StepOptions<'a> {
    /// Learning rate.
    pub lr: f64,
    /// Learning-rate multipliers of parameter groups.
    pub lr_multipliers: &'a LrMultipliers,
    /// Factor that clips or unscales gradients, a scalar in float32.
    pub grad_scale: Array,
    /// Whether to update at all, a boolean scalar on the device; `None` for always.
    pub is_finite: Option<Array>,
    /// Graphs to reuse. If they are kept, updates are queued on the device and not waited for.
    pub graphs: &'a Graphs,
}

/// Layout of the inputs of an update: the scalars, then each parameter with its gradient and state, then
/// optionally `is_finite`.
struct Layout {
    /// Number of scalars.
    shared: usize,
    /// Number of state tensors of each parameter; 0 before the first update.
    slots: Vec<usize>,
}

/// Bytes of new values computed at once. Old values are freed after each chunk, so this bounds the additional
/// memory of an update.
const CHUNK_BYTES: usize = 64 << 20;

impl Optimizer {
    /// Creates the optimizer described by `settings`.
    ///
    /// # Errors
    /// A hyperparameter out of range, or one that this optimizer does not have.
    pub fn new(settings: &OptimizerSettings) -> Result<Self> {
        let &OptimizerSettings { kind, momentum, nesterov, weight_decay, beta1, beta2, eps } = settings;
        let refuse = |message: String| Err(Error::Config(message));
        if momentum.is_some() && !matches!(kind, OptimizerKind::Sgd | OptimizerKind::Muon) {
            return refuse("momentum is for optimizer \"sgd\" or \"muon\"; others have beta1".into());
        }
        if let Some(momentum) = momentum.filter(|momentum| !(0.0..1.0).contains(momentum)) {
            return refuse(format!("momentum is {momentum}, expected 0 to below 1"));
        }
        if nesterov && (kind != OptimizerKind::Sgd || momentum == Some(0.0)) {
            return refuse("nesterov is for optimizer \"sgd\" with a momentum above 0".into());
        }
        let decoupled = matches!(kind, OptimizerKind::AdamW | OptimizerKind::Lion | OptimizerKind::Muon);
        let weight_decay = weight_decay.unwrap_or(if decoupled { 0.01 } else { 0.0 });
        let beta2 = beta2.unwrap_or(if kind == OptimizerKind::Lion { 0.99 } else { 0.999 });
        let adamw = AdamW { beta1, beta2, eps, weight_decay };
        let rule = match kind {
            OptimizerKind::AdamW => AnyRule::AdamW(adamw),
            OptimizerKind::Adam => AnyRule::Adam(Adam { beta1, beta2, eps, weight_decay }),
            OptimizerKind::Sgd => {
                AnyRule::Sgd(Sgd { momentum: momentum.unwrap_or(0.9), nesterov, weight_decay })
            }
            OptimizerKind::Adafactor => AnyRule::Adafactor(Adafactor { weight_decay }),
            OptimizerKind::Lion => AnyRule::Lion(Lion { beta1, beta2, weight_decay }),
            OptimizerKind::Muon => {
                AnyRule::Muon(Muon { momentum: momentum.unwrap_or(0.95), weight_decay, fallback: adamw })
            }
        };
        Ok(Self { rule })
    }

    /// Updates `parameters` by `grads`, which have the same names and shapes.
    ///
    /// Parameters are updated in chunks. `on_update` is called with the new values of each chunk, so that other
    /// holders can release the old ones.
    ///
    /// # Errors
    /// Shapes that do not match; errors from kernels. Some parameters may be updated then, and others not.
    pub fn step(
        &self,
        parameters: &mut Tensors,
        mut grads: Tensors,
        state: &mut OptimizerState,
        options: &StepOptions,
        mut on_update: impl FnMut(&Tensors) -> Result<()>,
    ) -> Result<()> {
        state.updates += 1;
        let chunks = self.chunks(parameters).into_iter();
        for (number, (multiplier, names)) in
            (0..).zip(chunks.flat_map(|names| options.lr_multipliers.partition(names)))
        {
            let numbers = self.rule().scalars(options.lr * multiplier, state.updates);
            let numbers = numbers.into_iter().map(|number| Array::from_f32(number as f32));
            let mut inputs: Vec<Array> = std::iter::once(options.grad_scale.clone()).chain(numbers).collect();
            let mut layout = Layout { shared: inputs.len(), slots: Vec::with_capacity(names.len()) };
            for name in &names {
                let parameter = &parameters[name];
                let keys = self.keys(name, parameter.shape()).map(|(key, _)| key);
                let slots: Vec<Array> = keys.filter_map(|key| state.tensors.remove(&key)).collect();
                layout.slots.push(slots.len());
                inputs.push(parameter.clone());
                let grad = grads.remove(name);
                inputs.push(grad.ok_or_else(|| Error::Training(format!("there is no gradient of {name}")))?);
                inputs.extend(slots);
            }
            inputs.extend(options.is_finite.clone());
            let updated =
                options.graphs.call(&[number], &inputs, |inputs| self.update(&names, &layout, inputs))?;
            // What nothing else holds now may be overwritten.
            drop(inputs);
            if options.graphs.are_kept() {
                async_eval(&updated)?;
            } else {
                eval(&updated)?;
            }
            let mut updated = updated.into_iter();
            let mut values = Tensors::new();
            for name in names {
                let parameter = updated.next();
                let keys = self.keys(&name, parameters[&name].shape()).map(|(key, _)| key);
                state.tensors.extend(keys.zip(updated.by_ref()));
                values.extend(parameter.map(|parameter| (name, parameter)));
            }
            on_update(&values)?;
            parameters.append(&mut values);
        }
        Ok(())
    }

    /// Computes the new value and state of each parameter in `names`, not evaluated.
    fn update(&self, names: &[String], layout: &Layout, inputs: &[Array]) -> Result<Vec<Array>, Exception> {
        let (shared, rest) = inputs.split_at(layout.shared);
        let [grad_scale, scalars @ ..] = shared else {
            return Err(Exception::custom("an update of nothing"));
        };
        let mut rest = rest.iter();
        let mut tensors = Vec::with_capacity(names.len());
        for (name, &slots) in names.iter().zip(&layout.slots) {
            let (Some(parameter), Some(grad)) = (rest.next(), rest.next()) else {
                return Err(Exception::custom(format!("an update of {name} without its tensors")));
            };
            let state: Vec<&Array> = rest.by_ref().take(slots).collect();
            tensors.push(Tensor { name, parameter, grad, state: (slots > 0).then_some(state) });
        }
        let finite = rest.next();
        let if_finite = |new: Array, old: Option<&Array>| match (finite, old) {
            (None, _) => Ok(new),
            (Some(finite), Some(old)) => select(finite, new, old),
            (Some(finite), None) => select(finite, &new, zeros_like(&new)?),
        };
        let mut outputs = Vec::with_capacity(inputs.len());
        for (new, old) in
            self.rule().update(Scalars { grad_scale, scalars }, &tensors)?.into_iter().zip(&tensors)
        {
            outputs.push(if_finite(new.parameter, Some(old.parameter))?);
            for (slot, value) in new.state.into_iter().enumerate() {
                let old = old.state.as_ref().and_then(|old| old.get(slot).copied());
                outputs.push(if_finite(value, old)?);
            }
        }
        Ok(outputs)
    }

    /// Whether `state` is a state of this optimizer for `parameters`.
    #[must_use]
    pub fn matches_state(&self, state: &OptimizerState, parameters: &Tensors) -> bool {
        if state.updates == 0 {
            return state.tensors.is_empty();
        }
        let mut expected: Vec<_> =
            parameters.iter().flat_map(|(name, x)| self.keys(name, x.shape())).collect();
        expected.sort();
        expected
            .iter()
            .map(|(key, shape)| (key, shape.as_slice()))
            .eq(state.tensors.iter().map(|(key, x)| (key, x.shape())))
    }

    fn rule(&self) -> &dyn UpdateRule {
        match &self.rule {
            AnyRule::AdamW(rule) => rule,
            AnyRule::Adam(rule) => rule,
            AnyRule::Sgd(rule) => rule,
            AnyRule::Adafactor(rule) => rule,
            AnyRule::Lion(rule) => rule,
            AnyRule::Muon(rule) => rule,
        }
    }

    /// Names and shapes of the state tensors of a parameter.
    fn keys(&self, name: &str, shape: &[i32]) -> impl Iterator<Item = (String, Vec<i32>)> {
        let slots = self.rule().slots(name, shape);
        slots.into_iter().map(move |Slot { name: slot, shape }| (format!("{slot}.{name}"), shape))
    }

    /// Splits the names of `parameters` into chunks of at least one name and about [`CHUNK_BYTES`].
    fn chunks(&self, parameters: &Tensors) -> Vec<Vec<String>> {
        let mut chunks: Vec<Vec<String>> = Vec::new();
        let mut room = 0;
        for (name, parameter) in parameters {
            let numbers =
                |(_, shape): (_, Vec<i32>)| shape.iter().map(|&dim| dim as usize).product::<usize>();
            let slot_elements: usize = self.keys(name, parameter.shape()).map(numbers).sum();
            let bytes = parameter.nbytes() + size_of::<f32>() * slot_elements;
            match chunks.last_mut() {
                Some(chunk) if bytes <= room => {
                    chunk.push(name.clone());
                    room -= bytes;
                }
                _ => {
                    chunks.push(vec![name.clone()]);
                    room = CHUNK_BYTES.saturating_sub(bytes);
                }
            }
        }
        chunks
    }
}

#[cfg(test)]
mod tests;
