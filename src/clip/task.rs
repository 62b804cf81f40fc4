//! Contrastive training as a [`Task`].

use mlx_rs::{Array, Dtype};

use super::loader::PairBatch;
use super::loss::{LossKind, Similarity};
use crate::models::clip::{Clip, TextBatch, normalized};
use crate::params::Tensors;
use crate::train::hooks::StepHook;
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::{Result, nn};

/// The name of the temperature's parameter.
pub(super) const LOGIT_SCALE: &str = "logit_scale";

/// Trains features of pairs to be more similar than those of others.
pub(super) struct ContrastiveTask {
    pub loss: LossKind,
}

impl Task for ContrastiveTask {
    type Model = Clip;
    type Batch = PairBatch;

    fn totals(&self, batch: &PairBatch) -> Totals {
        Totals([batch.rows as f64, 0.0])
    }

    /// | name | shape | |
    /// |---|---|---|
    /// | `images` | `[pairs, size, size, 3]` | normalized pixels |
    /// | `ids`, `ends` | `[pairs, length]`, `[pairs]` | of a [`TextBatch`] |
    /// | `per_pair` | scalar | factor of the losses of pairs |
    fn inputs(
        &self,
        model: &Clip,
        batch: &PairBatch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs> {
        let texts = model.text_batch(&batch.ids, batch.rows)?;
        let size = model.image_size();
        let mut inputs = Inputs::new(options.loss_scale);
        inputs.insert("images", Array::from_slice(&batch.pixels, &[batch.rows as i32, size, size, 3]));
        inputs.insert("ids", texts.ids);
        inputs.insert("ends", texts.ends);
        let factor = options.loss_scale.unwrap_or(1.0) / totals.0[0] as f32;
        inputs.insert("per_pair", Array::from_f32(factor));
        Ok(inputs)
    }

    fn loss(&self, model: &mut Clip, inputs: &Inputs, _gradient: bool) -> nn::Result<Loss> {
        let images = normalized(&model.image_features(inputs.get("images")?)?)?;
        let texts = TextBatch { ids: inputs.get("ids")?.clone(), ends: inputs.get("ends")?.clone() };
        let texts = normalized(&model.text_features(&texts)?)?;
        let wide = |x: &Array| x.as_dtype(Dtype::Float32);
        let bias = model.logit_bias().map(wide).transpose()?;
        let similarity = Similarity {
            images: &images,
            texts: &texts,
            logit_scale: &wide(model.logit_scale())?,
            logit_bias: bias.as_ref(),
        };
        Ok(Loss { value: self.loss.sum(&similarity)?.multiply(inputs.get("per_pair")?)?, rewards: None })
    }
}

/// Keeps similarities from being multiplied by more than 100, as in [CLIP](https://arxiv.org/abs/2103.00020).
pub(super) struct ClampTemperature;

impl StepHook for ClampTemperature {
    fn on_gradients(&self, _: &Tensors, _: &mut Tensors, _: f32) -> Result<()> {
        Ok(())
    }

    fn after_step(&mut self, _: u64, _: &Tensors, _: f32, parameters: &mut Tensors) -> Result<()> {
        if let Some(scale) = parameters.get_mut(LOGIT_SCALE) {
            *scale = mlx_rs::ops::clip(&*scale, (0.0, 100.0_f32.ln()))?;
        }
        Ok(())
    }

    fn state(&self) -> Tensors {
        Tensors::new()
    }

    fn load_state(&mut self, _: &Tensors, _: &Tensors) -> Result<()> {
        Ok(())
    }
}
