//! Predictions of the original model: the most likely tokens at each position of each sequence, in one file per sequence.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mlx_rs::ops::argpartition_axis;
use mlx_rs::ops::indexing::{Ellipsis, IndexOp as _};
use mlx_rs::{Array, Dtype};

use crate::io::tensors;
use crate::models::Model;
use crate::params::Tensors;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::{Error, Result, kernels};

const LOG_PROBS: &str = "log_probs";
const TOKENS: &str = "tokens";

/// The stored predictions.
#[derive(Debug)]
pub(in crate::quantize) struct Teacher {
    folder: PathBuf,
}

/// Predictions for one sequence.
pub(super) struct Predictions {
    /// Log-probabilities at the temperature of the run, `[time, top_k]` in float32.
    pub log_probs: Array,
    /// Their tokens, `[time, top_k]`.
    pub tokens: Array,
}

impl Teacher {
    /// Computes the predictions of `model` for each of `sequences`, and stores them below `folder` unless they are there
    /// already. `model_id` identifies the model.
    ///
    /// # Errors
    /// No space or no permission; logits that are not finite; [`Error::Interrupted`].
    pub(in crate::quantize) fn prepare(
        model: &Model,
        model_id: &str,
        sequences: &[Vec<u32>],
        (temperature, top_k): (f64, usize),
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let identity = [temperature.to_bits(), top_k as u64].into_iter();
        let identity = identity.chain(model_id.bytes().map(u64::from));
        let identity = digest(identity.chain(sequences.iter().flatten().map(|&token| token.into())));
        let this = Self { folder: folder.join(format!("teacher-{identity:016x}")) };
        fs::create_dir_all(&this.folder).map_err(Error::io("create", &this.folder))?;
        for (index, sequence) in sequences.iter().enumerate() {
            if !this.file(index).exists() {
                let predictions = predict(model, sequence, temperature as f32, top_k)?;
                tensors::write(&this.file(index), &predictions, &[])?;
            }
            let (done, total) = (index as u64 + 1, sequences.len() as u64);
            if observer.on(&Event::Progress { stage: "teacher".to_owned(), done, total })
                == ControlFlow::Break(())
            {
                return Err(Error::Interrupted);
            }
        }
        Ok(this)
    }

    /// Reads the predictions for sequence number `index`.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub(super) fn read(&self, index: usize) -> Result<Predictions> {
        let path = self.file(index);
        let mut tensors = tensors::read(&path)?;
        let mut take = |name: &str| {
            tensors
                .remove(name)
                .ok_or_else(|| Error::Training(format!("{}: \"{name}\" is missing", path.display())))
        };
        Ok(Predictions { log_probs: take(LOG_PROBS)?, tokens: take(TOKENS)? })
    }

    fn file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{index:06}.safetensors"))
    }
}

fn predict(model: &Model, sequence: &[u32], temperature: f32, top_k: usize) -> Result<Tensors> {
    let ids = Array::from_slice(sequence, &[1, sequence.len() as i32]);
    let logits = model.forward(&ids, None)?.as_dtype(Dtype::Float32)?.squeeze_axes(&[0])?;
    let logits = logits.multiply(Array::from_f32(temperature.recip()))?;
    let total = logits.logsumexp_axis(-1, true)?;
    let count = (top_k as i32).min(logits.dim(-1));
    let order = argpartition_axis(logits.negative()?, count - 1, -1)?;
    let tokens = order.index((Ellipsis, ..count));
    let log_probs = logits.take_along_axis(&tokens, -1)?.subtract(&total)?;
    kernels::eval([&log_probs, &tokens, &total])?;
    if !total.as_slice::<f32>().iter().all(|total| total.is_finite()) {
        return Err(Error::ModelLoading(
            "the logits of the model are not finite: the checkpoint is damaged, or its dtype is too narrow"
                .into(),
        ));
    }
    Ok([(LOG_PROBS.to_owned(), log_probs), (TOKENS.to_owned(), tokens)].into())
}
