//! Optimizers: what a gradient does to a parameter.
//!
//! | name | remembers of a parameter `[m, n]` | wants a learning rate of |
//! |---|---|---|
//! | [`adamw`](adamw) | two moments, 2mn | 1e-4 to 3e-4 for adapters, 1e-5 to 5e-5 for every weight |
//! | [`adam`](adam) | two moments, 2mn | the same |
//! | [`sgd`](sgd) | a velocity, mn; nothing without momentum | 100 to 1000 times that |
//! | [`adafactor`](adafactor) | means of rows and columns, m + n | the same to 3 times that |
//! | [`lion`](lion) | a momentum, mn | a tenth to a third of that, with a larger decay |
//! | [`muon`](muon) | a momentum, mn | the same |
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

/// The name of an optimizer in configurations.
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

/// The settings of every optimizer; each takes what it has.
#[derive(Debug, Clone, Copy)]
pub struct OptimizerSettings {
    /// Which one.
    pub kind: OptimizerKind,
    /// Decay of the momentum of SGD (`None`: 0.9) and Muon (`None`: 0.95).
    pub momentum: Option<f64>,
    /// Whether SGD looks ahead.
    pub nesterov: bool,
    /// Pull of parameters to 0; `None` for 0.01 where it is decoupled by custom (`AdamW`, Lion, Muon), else 0.
    pub weight_decay: Option<f64>,
    /// Decay of the first moment of Adam and `AdamW`, and of Lion's interpolation.
    pub beta1: f64,
    /// Decay of the second moment of Adam and `AdamW` (`None`: 0.999), and of Lion's momentum (`None`: 0.99).
    pub beta2: Option<f64>,
    /// Keeps the division of Adam and `AdamW` finite.
    pub eps: f64,
}

/// An optimizer with its settings.
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

/// What an optimizer remembers.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Tensors called `<slot>.<parameter>`, f32.
    pub tensors: Tensors,
    /// Updates so far.
    pub updates: u64,
}

/// How an update is taken.
#[derive(Debug)]
pub struct StepOptions<'a> {
    /// Learning rate.
    pub lr: f64,
    /// Factors of it.
    pub lr_multipliers: &'a LrMultipliers,
    /// What gradients are multiplied with, to clip or unscale them: `[]`, f32.
    pub grad_scale: Array,
    /// `[]`, bool: whether anything is to change; `None` where that is known.
    pub is_finite: Option<Array>,
    /// Graphs of updates. Where they are kept, so that a device is fed from afar, new values are not waited for.
    pub graphs: &'a Graphs,
}

/// Where the parts of a group stand among the inputs of its update: the scalars, then each parameter with its gradient
/// and memory, then perhaps whether all is finite.
struct Layout {
    /// Scalars.
    shared: usize,
    /// Number of state tensors of each parameter; 0 before the first update.
    slots: Vec<usize>,
}

/// Bytes of new values that are computed at once. Old values go as soon as their group is done, so this
/// is about what an update needs in addition to what it changes.
const CHUNK_BYTES: usize = 64 << 20;

impl Optimizer {
    /// The optimizer that `settings` describe.
    ///
    /// # Errors
    /// A setting out of range, or one that this optimizer does not have, by its key.
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

    /// Takes one step along `grads` (same names and shapes as `parameters`).
    ///
    /// Parameters are updated in chunks; `replaced` is called with the new values of each, so that who
    /// else holds the old ones can let go of them.
    ///
    /// # Errors
    /// Shapes that do not fit; what a kernel reports. Some parameters are updated and some are not then.
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

    /// New values and memories of the parameters called `names`, one after the other, unevaluated.
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

    /// Whether `memory` is what this optimizer remembers of `parameters`.
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

    /// Names of `parameters` in chunks whose new values take about [`CHUNK_BYTES`], at least one in each.
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
