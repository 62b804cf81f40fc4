//! Incremental decoding, one token at a time.

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::kernels::tape::{Tape, record};
use crate::models::Model;
use crate::nn::Cache;
use crate::{Result, kernels};

/// A model with its cache. If possible, the kernels of the first step are recorded and replayed in later steps.
pub struct IncrementalDecoder<'a> {
    model: &'a Model,
    cache: Cache,
    tape: Option<Tape>,
    /// Whether recording is still worth trying.
    is_recordable: bool,
}

impl<'a> IncrementalDecoder<'a> {
    /// Creates a decoder that continues from `cache`.
    #[must_use]
    pub fn new(model: &'a Model, cache: Cache) -> Self {
        Self { model, cache, tape: None, is_recordable: true }
    }

    /// Computes all later steps anew, for rotations that are not the same in each.
    pub fn stop_recording(&mut self) {
        (self.tape, self.is_recordable) = (None, false);
    }

    /// Appends `token` and returns the logits of the next one, `[vocab]`.
    ///
    /// # Errors
    /// Errors from kernels and from MLX.
    pub fn step(&mut self, token: u32) -> Result<Vec<f32>> {
        if let Some(tape) = &mut self.tape {
            if let Some(logits) = tape.run(&[token])? {
                self.cache.advance();
                return Ok(logits);
            }
            // The cache has to grow, which only a new graph can do; it may take the memory that the tape held.
            self.tape = None;
        }
        let ids = Array::from_slice(&[token], &[1, 1]);
        let mut forward = || self.model.forward(&ids, Some(&mut self.cache));
        // A recording holds what it notes, so caches are copied instead of written in place: not in vain.
        let (logits, recording) = if self.is_recordable {
            let (logits, recording) = record(forward);
            (logits?, Some(recording))
        } else {
            (forward()?, None)
        };
        let last = logits.try_index((0, -1, ..))?.as_dtype(Dtype::Float32)?;
        kernels::eval([&last, &logits].into_iter().chain(self.cache.arrays()))?;
        if let Some(recording) = recording {
            let parameters = self.model.parameters().flatten();
            self.tape = recording.tape(&ids, parameters.values().copied(), &logits);
            self.is_recordable = self.tape.is_some();
        }
        Ok(last.as_slice::<f32>().to_vec())
    }
}
