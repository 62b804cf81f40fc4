//! Training with weights rounded as they will be saved (quantization-aware training, [Jacob et
//! al.](https://arxiv.org/abs/1712.05877)).

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::Array;

use crate::data::Batch;
use crate::kernels::quantized::Format;
use crate::models::Model;
use crate::nn;
use crate::nn::computed_weights::{with_computed_weights, with_merged_updates};
use crate::nn::fake_quantization::{fake_quantize, quantize};
use crate::nn::network::GradientCheckpointing;
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::{Result, kernels};

/// How weights are rounded while they are trained.
#[derive(Debug, Clone)]
pub struct FakeQuantization {
    /// Formats by key path.
    formats: BTreeMap<String, Format>,
    /// Rounded values of the weights that are not trained.
    frozen: BTreeMap<String, Array>,
    /// Names of the parameters whose gradients are wanted, once low-rank updates are part of their weights.
    differentiated: BTreeSet<String>,
}

impl FakeQuantization {
    /// Prepares rounding in `formats` while the parameters called `trained` are trained.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(model: &mut Model, formats: BTreeMap<String, Format>, trained: &[String]) -> Result<Self> {
        let weight_of = |name: &String| match name.rsplit_once('.') {
            Some((path, leaf)) if leaf.starts_with("lora_") => format!("{path}.weight"),
            _ => name.clone(),
        };
        let differentiated: BTreeSet<String> = trained.iter().map(weight_of).collect();
        let mut frozen = BTreeMap::new();
        model.visit_quantizable(&mut |path, weight| {
            if let Some(&format) = formats.get(path)
                && !differentiated.contains(&format!("{path}.weight"))
            {
                let rounded = fake_quantize(weight.weight, format)?;
                kernels::eval([&rounded])?;
                frozen.insert(path.to_owned(), rounded);
            }
            Ok(())
        })?;
        Ok(Self { formats, frozen, differentiated })
    }

    /// Formats by key path.
    #[must_use]
    pub fn formats(&self) -> &BTreeMap<String, Format> {
        &self.formats
    }

    /// Merges low-rank updates into their weights, and replaces all weights by codes of the values that were trained.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn apply(&self, model: &mut Model) -> Result<()> {
        model.visit_linears(&mut |_, layer| {
            if let Some(merged) = layer.merged()? {
                kernels::eval([&merged])?;
                *layer.weight = merged;
                layer.remove_update();
            }
            Ok(())
        })?;
        model.visit_quantizable(&mut |path, weight| match self.formats.get(path) {
            Some(&format) => Ok(quantize(weight, format)?),
            None => Ok(()),
        })
    }

    /// Calls `work` while all weights of `model` are the rounded ones.
    fn with_rounded<T>(
        &self,
        model: &mut Model,
        work: impl FnOnce(&mut Model) -> nn::Result<T>,
    ) -> nn::Result<T> {
        let mut round = |path: &str, weight: &nn::quantized::WeightMut| match (
            self.formats.get(path),
            self.frozen.get(path),
        ) {
            (_, Some(rounded)) => Ok(Some(rounded.clone())),
            (Some(&format), None) => fake_quantize(weight.weight, format).map(Some),
            (None, None) => Ok(None),
        };
        with_merged_updates(model, |model| with_computed_weights(model, &mut round, work))
    }
}

/// A task on text, with rounded weights if `quantization` is set.
#[derive(Debug, Clone)]
pub struct QuantizationAware<T> {
    /// What is trained.
    pub task: T,
    /// How weights are rounded.
    pub quantization: Option<FakeQuantization>,
    /// Blocks per gradient checkpoint with rounded weights, as [`Plan::grad_checkpoint`](crate::train::plan::Plan).
    pub grad_checkpoint: usize,
}

impl<T: Task<Model = Model, Batch = Batch>> Task for QuantizationAware<T> {
    type Model = Model;
    type Batch = Batch;

    fn prepare(&self, model: &Model, batches: Vec<Vec<Batch>>, first: u64) -> Result<Vec<Vec<Batch>>> {
        self.task.prepare(model, batches, first)
    }

    fn totals(&self, batch: &Batch) -> Totals {
        self.task.totals(batch)
    }

    fn inputs(
        &self,
        model: &Model,
        batch: &Batch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs> {
        self.task.inputs(model, batch, totals, options)
    }

    fn loss(&self, model: &mut Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss> {
        let Some(quantization) = &self.quantization else { return self.task.loss(model, inputs, gradient) };
        quantization.with_rounded(model, |model| {
            // A block is recomputed from its weights, not from the parameters that these were computed from.
            model.set_gradient_checkpointing((gradient && self.grad_checkpoint > 0).then(|| {
                let trained = quantization.differentiated.clone();
                GradientCheckpointing { every: self.grad_checkpoint, trained }
            }));
            let loss = self.task.loss(model, inputs, gradient);
            model.set_gradient_checkpointing(None);
            loss
        })
    }

    fn perplexity(&self, loss: f64) -> Option<f64> {
        self.task.perplexity(loss)
    }
}
