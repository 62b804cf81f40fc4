//! Calibration sequences on their way through the blocks of a model.

use std::ops::ControlFlow;
use std::path::Path;

use mlx_rs::Array;

use crate::io::tensors;
use crate::models::Model;
use crate::nn::tap::{Observation, Recorder};
use crate::params::Tensors;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Tokens that pass through a block at once.
const TOKENS_AT_ONCE: usize = 2048;

/// Residual streams of all sequences in front of one block, in the dtype of the model.
#[derive(Debug, Clone)]
pub struct BlockStream {
    block: usize,
    /// Each `[batch, time, hidden]`.
    batches: Vec<Array>,
}

/// What some layers of a block were applied to.
#[derive(Debug)]
pub struct Input<'a> {
    /// Indices of the layers, in the list that was given to [`BlockStream::observe`].
    pub layers: &'a [usize],
    /// `[..., in]`, evaluated.
    pub x: &'a Array,
}

impl BlockStream {
    /// Embeds `sequences` of equal length.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn start(model: &Model, sequences: &[Vec<u32>]) -> Result<Self> {
        let length = sequences.first().map_or(1, Vec::len).max(1);
        let mut batches = Vec::new();
        for sequences in sequences.chunks((TOKENS_AT_ONCE / length).max(1)) {
            let ids = Array::from_slice(&sequences.concat(), &[sequences.len() as i32, length as i32]);
            let x = model.embed(&ids)?;
            kernels::eval([&x])?;
            batches.push(x);
        }
        Ok(Self { block: 0, batches })
    }

    /// Number of the block that the sequences are in front of.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// Residual streams of all sequences, in order, each `[batch, time, hidden]`.
    #[must_use]
    pub fn batches(&self) -> &[Array] {
        &self.batches
    }

    /// Calls `see` with every input that the layers at `paths` have in the block, over all sequences.
    ///
    /// # Errors
    /// Errors of `see`; errors from MLX; [`Error::Interrupted`].
    pub fn observe(
        &self,
        model: &mut Model,
        paths: &[String],
        observer: &mut dyn Observer,
        see: &mut dyn FnMut(Input) -> Result<()>,
    ) -> Result<()> {
        let recorder = Recorder::default();
        set_taps(model, paths, Some(&recorder))?;
        let outcome = self.batches.iter().try_for_each(|x| {
            // The outputs are not evaluated: what comes after the last of these layers is not computed.
            model.apply_block(self.block, x)?;
            let observed = recorder.take();
            kernels::eval(observed.iter().map(|observation| &observation.x))?;
            for Observation { layers, x } in observed {
                see(Input { layers: &layers, x: &x })?;
                poll(observer)?;
            }
            Ok(())
        });
        set_taps(model, paths, None)?;
        outcome
    }

    /// The stream of the first batch alone.
    #[must_use]
    pub fn first_batch(&self) -> Self {
        Self { block: self.block, batches: self.batches.iter().take(1).cloned().collect() }
    }

    /// Moves all sequences on, through the block as it is now.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`].
    pub fn advance(&mut self, model: &Model, observer: &mut dyn Observer) -> Result<()> {
        for x in &mut self.batches {
            let y = model.apply_block(self.block, x)?;
            kernels::eval([&y])?;
            *x = y;
            poll(observer)?;
        }
        self.block += 1;
        Ok(())
    }

    /// Saves the streams to the file `path`.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn save(&self, path: &Path) -> Result<()> {
        let name = |index| format!("{index:06}");
        let batches = self.batches.iter().enumerate();
        let tensors: Tensors = batches.map(|(index, x)| (name(index), x.clone())).collect();
        tensors::write(path, &tensors, &[])
    }

    /// Loads what was saved in front of block number `block`.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn load(path: &Path, block: usize) -> Result<Self> {
        Ok(Self { block, batches: tensors::read(path)?.into_values().collect() })
    }
}

/// Connects the layers at `paths` to `recorder`, or disconnects them.
fn set_taps(model: &mut Model, paths: &[String], recorder: Option<&Recorder>) -> Result<()> {
    model.visit_linears(&mut |path, layer| {
        if let Some(number) = paths.iter().position(|observed| observed == path) {
            layer.tap = recorder.map(|recorder| recorder.tap(number));
        }
        Ok(())
    })
}

fn poll(observer: &mut dyn Observer) -> Result<()> {
    if observer.poll() == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
}
