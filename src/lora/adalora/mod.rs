//! Adaptive budget allocation ([AdaLoRA](https://arxiv.org/abs/2303.10512)): adapters start with a higher rank
//! than the target, and the least important ranks of all layers are pruned during training.
//!
//! ```text
//! y = x·Wᵀ + s·(x·A)·diag(E)·B        loss + w·(mean of ‖AᵀA - I‖ and ‖B·Bᵀ - I‖ over all matrices)
//! I = |p ∘ ∇p|        Ī ← β₁Ī + (1-β₁)I        Ū ← β₂Ū + (1-β₂)|I - Ī|
//! S_r = ĪŪ(E_r) + mean ĪŪ(A_r) + mean ĪŪ(B_r)
//! ```
//!
//! | operand | shape |
//! |---|---|
//! | `A`, `E`, `B` of each layer | `[in, rank]`, `[rank]`, `[rank, out]` |
//! | `S` | one number per rank of each layer |
//!
//! After each allocation, the `E_r` with the smallest `S_r` over all layers are set to zero, so that the remaining
//! ranks match the budget of the step; they may come back until the last allocation. Formulas, order and rounding
//! of the budget are those of PEFT, with steps counted from 1.

use mlx_rs::Array;

use super::config::TrainingConfig;
use crate::kernels::matmul::{Transpose, matmul};
use crate::params::Tensors;
use crate::train::hooks::StepHook;
use crate::{Error, Result, kernels};

const SENSITIVITY: &str = "mean.";
const UNCERTAINTY: &str = "spread.";
const MASK: &str = "mask.";
const A: &str = ".lora_a";
const B: &str = ".lora_b";
const E: &str = ".lora_e";

/// Schedule of the total rank of all layers.
#[derive(Debug, Clone, Copy)]
pub struct BudgetSchedule {
    /// Initial total rank.
    pub initial: u64,
    /// Final total rank.
    pub target: u64,
    /// Number of steps before the budget decreases.
    pub tinit: u64,
    /// Step of the last allocation.
    pub end: u64,
    /// Number of steps between two allocations.
    pub delta_t: u64,
}

impl BudgetSchedule {
    /// Returns the budget of `step`, and whether ranks are allocated in that step.
    fn at_step(&self, step: u64) -> (u64, bool) {
        let &Self { initial, target, tinit, end, delta_t } = self;
        if step <= tinit {
            return (initial, false);
        }
        if step >= end {
            return (target, step == end);
        }
        let left = 1.0 - (step - tinit) as f64 / (end - tinit) as f64;
        let budget = ((initial - target) as f64 * left.powi(3) + target as f64) as u64;
        (budget, step.is_multiple_of(delta_t))
    }
}

/// Tracks the importance of ranks and allocates the budget (`RankAllocator` of PEFT).
#[derive(Debug)]
pub struct RankAllocator {
    budget: BudgetSchedule,
    beta1: f32,
    beta2: f32,
    orth_reg_weight: f32,
    /// `Ī` and `Ū` by parameter, and the last mask of each `E`.
    state: Tensors,
}

impl RankAllocator {
    /// Creates the allocator described by `config` for a run of `steps` that trains the parameters `names`.
    ///
    /// # Errors
    /// A run that is too short for its phases.
    pub fn new(config: &TrainingConfig, names: &[String], steps: u64) -> Result<Self> {
        let layers = names.iter().filter(|name| name.ends_with(E)).count() as u64;
        let (tinit, tfinal) = (config.adalora_tinit, config.adalora_tfinal);
        let end = steps.saturating_sub(tfinal);
        if end <= tinit.max(1) {
            return Err(Error::Config(format!(
                "adalora_tinit ({tinit}) and adalora_tfinal ({tfinal}) leave no step of {steps} to lower the ranks in; \
                 expected fewer, or more steps (iters, epochs)"
            )));
        }
        Ok(Self {
            budget: BudgetSchedule {
                initial: layers * u64::from(config.initial_rank()),
                target: layers * u64::from(config.lora_rank),
                tinit,
                end,
                delta_t: config.adalora_delta_t,
            },
            beta1: config.adalora_beta1 as f32,
            beta2: config.adalora_beta2 as f32,
            orth_reg_weight: config.adalora_orth_reg_weight as f32,
            state: Tensors::new(),
        })
    }

    /// Updates `Ī` and `Ū` after a step.
    fn update_importance(&mut self, grads: &Tensors, grad_scale: f32, parameters: &Tensors) -> Result<()> {
        let average = |old: Option<&Array>, new: &Array, beta: f32| {
            let share = new.multiply(Array::from_f32(1.0 - beta))?;
            old.map_or(Ok(share.clone()), |old| old.multiply(Array::from_f32(beta))?.add(share))
        };
        let mut state = Tensors::new();
        for (name, value) in parameters {
            let Some(grad) = grads.get(name) else { continue };
            let (mean, uncertainty) = (format!("{SENSITIVITY}{name}"), format!("{UNCERTAINTY}{name}"));
            let now = value.multiply(grad.multiply(Array::from_f32(grad_scale))?)?.abs()?;
            let new_mean = average(self.state.get(&mean), &now, self.beta1)?;
            let distance = now.subtract(&new_mean)?.abs()?;
            state.insert(uncertainty.clone(), average(self.state.get(&uncertainty), &distance, self.beta2)?);
            state.insert(mean, new_mean);
        }
        kernels::eval(state.values())?;
        self.state.extend(state);
        Ok(())
    }

    /// Computes `ĪŪ` of a parameter.
    fn element_score(&self, name: &str) -> Result<Array> {
        match (
            self.state.get(&format!("{SENSITIVITY}{name}")),
            self.state.get(&format!("{UNCERTAINTY}{name}")),
        ) {
            (Some(mean), Some(uncertainty)) => Ok(mean.multiply(uncertainty)?),
            _ => Err(Error::Training(format!("AdaLoRA has not watched {name} yet"))),
        }
    }

    /// Computes `S` of the layer at `path`.
    fn rank_scores(&self, path: &str) -> Result<Vec<f32>> {
        let [a, b, e] = [A, B, E].map(|slot| self.element_score(&format!("{path}{slot}")));
        let vectors = a?.mean_axis(0, false)?.add(b?.mean_axis(1, false)?)?;
        let scores = e?.add(vectors)?;
        kernels::eval([&scores])?;
        Ok(scores.as_slice::<f32>().to_vec())
    }

    /// Masks all but the `budget` most important ranks.
    fn mask_to_budget(&mut self, budget: u64, parameters: &mut Tensors) -> Result<()> {
        let paths: Vec<String> =
            parameters.keys().filter_map(|name| name.strip_suffix(E)).map(String::from).collect();
        let scores: Vec<Vec<f32>> = paths.iter().map(|path| self.rank_scores(path)).collect::<Result<_>>()?;
        let Some(threshold) = threshold(scores.concat(), self.budget.initial.saturating_sub(budget)) else {
            return Ok(());
        };
        for (path, scores) in paths.iter().zip(scores) {
            let mask: Vec<f32> = scores.iter().map(|&score| f32::from(score > threshold)).collect();
            let mask = Array::from_slice(&mask, &[mask.len() as i32]);
            self.state.insert(format!("{MASK}{path}{E}"), mask);
        }
        self.apply_masks(parameters)
    }

    /// Applies the masks of the last allocation.
    fn apply_masks(&self, parameters: &mut Tensors) -> Result<()> {
        for (name, mask) in &self.state {
            let Some(e) = name.strip_prefix(MASK).and_then(|name| parameters.get_mut(name)) else { continue };
            *e = e.multiply(mask)?;
            kernels::eval([&*e])?;
        }
        Ok(())
    }
}

/// Returns the `removed`-th smallest of `scores`; `None` if `removed` is 0.
fn threshold(mut scores: Vec<f32>, removed: u64) -> Option<f32> {
    scores.sort_by(f32::total_cmp);
    scores.get(usize::try_from(removed).ok()?.checked_sub(1)?).copied()
}

impl StepHook for RankAllocator {
    /// Adds the gradients of the orthogonality penalty.
    fn on_gradients(&self, parameters: &Tensors, grads: &mut Tensors, scale: f32) -> Result<()> {
        let count = parameters.keys().filter(|name| !name.ends_with(E)).count();
        let weight = scale * self.orth_reg_weight / count.max(1) as f32;
        for (name, matrix) in parameters {
            let is_a = name.ends_with(A);
            if !is_a && !name.ends_with(B) {
                continue;
            }
            let gram = matmul(matrix, matrix, Transpose { a: is_a, b: !is_a })?;
            let off = gram.subtract(Array::eye::<f32>(gram.dim(0), None, None)?)?;
            let length = off.square()?.sum(None)?.sqrt()?;
            // A matrix that is orthogonal already has no direction to go.
            let length = mlx_rs::ops::maximum(length, Array::from_f32(f32::MIN_POSITIVE))?;
            let product = if is_a {
                matmul(matrix, &off, Transpose::NONE)?
            } else {
                matmul(&off, matrix, Transpose::NONE)?
            };
            let penalty = product.multiply(Array::from_f32(2.0 * weight).divide(length)?)?;
            if let Some(grad) = grads.get_mut(name) {
                *grad = grad.add(penalty)?;
            }
        }
        kernels::eval(grads.values())?;
        Ok(())
    }

    fn after_step(
        &mut self,
        step: u64,
        grads: &Tensors,
        grad_scale: f32,
        parameters: &mut Tensors,
    ) -> Result<()> {
        if step > self.budget.end {
            return self.apply_masks(parameters);
        }
        if step < self.budget.end {
            self.update_importance(grads, grad_scale, parameters)?;
        }
        let (budget, due) = self.budget.at_step(step);
        if due {
            self.mask_to_budget(budget, parameters)?;
        }
        if step == self.budget.end {
            self.state.retain(|name, _| name.starts_with(MASK));
        }
        Ok(())
    }

    fn state(&self) -> Tensors {
        self.state.clone()
    }

    fn load_state(&mut self, state: &Tensors, parameters: &Tensors) -> Result<()> {
        let is_own =
            |name: &String| [SENSITIVITY, UNCERTAINTY, MASK].iter().any(|kind| name.starts_with(kind));
        let state: Tensors = state.clone().into_iter().filter(|(name, _)| is_own(name)).collect();
        let fits = |(name, x): (&String, &Array)| {
            let parameter = [SENSITIVITY, UNCERTAINTY, MASK].iter().find_map(|kind| name.strip_prefix(kind));
            parameter.and_then(|name| parameters.get(name)).is_some_and(|p| p.shape() == x.shape())
        };
        if let Some((name, _)) = state.iter().find(|&entry| !fits(entry)) {
            return Err(Error::Training(format!(
                "the checkpoint is damaged: {name} of AdaLoRA belongs to no parameter of this run"
            )));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
