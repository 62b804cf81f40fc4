//! Quantizing a whole model on calibration text.

use std::ops::ControlFlow;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde_json::{Value, json};

use super::block::quantize_block;
use super::config::QuantizeConfig;
use super::importance::{self, Importance};
use super::layer::restore;
use super::learned::{Teacher, learn};
use super::plan::Plan;
use super::report::LayerReport;
use super::rtn::rtn;
use crate::calibrate::{BlockCheckpoints, BlockStream};
use crate::io::folder;
use crate::io::output::CHECKPOINTS;
use crate::kernels::quantized::Mode;
use crate::models::Model;
use crate::progress::{Event, Observer};
use crate::{Error, Result, kernels};

/// What a run works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    /// Folder of the original model.
    pub(super) source: &'a Path,
    /// Output folder.
    pub(super) output: &'a Path,
    /// What a resumed run must match.
    pub(super) identity: &'a Value,
    pub(super) config: &'a QuantizeConfig,
    pub(super) plan: &'a Plan,
}

impl Job<'_> {
    /// Quantizes the blocks one after the other, and then embeddings and head; the subfolder `checkpoints` keeps what is
    /// done.
    ///
    /// # Errors
    /// A layer that cannot be quantized; checkpoints of other settings; [`Error::Interrupted`].
    pub(super) fn calibrate(
        &self,
        model: &mut Model,
        sequences: &[Vec<u32>],
        checkpoints: &str,
        observer: &mut dyn Observer,
    ) -> Result<Vec<LayerReport>> {
        let &Self { output, identity, config, plan, .. } = self;
        let folder = output.join(checkpoints);
        let mut layers: Vec<LayerReport> = Vec::new();
        let mut importance = Importance::default();
        let saved = output.join(importance::FILE);
        let resumed = if config.resume { BlockCheckpoints::resume(folder.clone(), identity)? } else { None };
        if resumed.is_some() && config.save_importance {
            importance = Importance::read(&saved)?;
        }
        let (checkpoints, mut stream) = if let Some((checkpoints, blocks, stream)) = resumed {
            for block in blocks {
                restore(model, block.parameters, plan)?;
                let reports: Vec<LayerReport> = serde_json::from_value(block.report)
                    .map_err(|error| Error::Training(format!("a checkpoint is damaged: {error}")))?;
                layers.extend(reports);
            }
            (checkpoints, stream)
        } else {
            (BlockCheckpoints::create(folder, identity)?, BlockStream::start(model, sequences)?)
        };
        let (blocks, tokens) = (model.block_count(), sequences.iter().map(Vec::len).sum());
        while stream.block() < blocks {
            let reports = quantize_block(model, &stream, plan, config, &mut importance, observer)?;
            stream.advance(model, observer)?;
            if config.save_importance {
                importance.save(&saved)?;
            }
            checkpoints.save(model, &stream, &json!(reports))?;
            layers.extend(reports);
            progress(observer, stream.block(), blocks)?;
        }
        let of_head = head_importance(model, &stream)?;
        let head = model.tied_to("lm_head.weight").unwrap_or_else(|| "lm_head.weight".to_owned());
        let head = head.trim_end_matches(".weight");
        let done: Vec<String> = layers.iter().map(|layer| layer.path.clone()).collect();
        model.visit_quantizable(&mut |path, weight| {
            let Some(&format) = plan.formats.get(path) else { return Ok(()) };
            if !done.iter().any(|done| done == path) {
                let (of_layer, tokens) = if path == head { (Some(&of_head[..]), tokens) } else { (None, 0) };
                if let Some(of_layer) = of_layer {
                    importance.insert(path, of_layer);
                }
                let report = rtn(path, weight, format, config.range_search, of_layer)?;
                layers.push(LayerReport { tokens, ..report });
            }
            Ok(())
        })?;
        if config.save_importance {
            importance.save(&saved)?;
        }
        Ok(layers)
    }

    /// Quantizes the blocks, and then learns scales and biases. Returns the divergence before and after, too.
    ///
    /// # Errors
    /// Those of [`calibrate`](Self::calibrate), and of training.
    pub(super) fn learn(
        &self,
        model: &mut Model,
        sequences: &[Vec<u32>],
        observer: &mut dyn Observer,
    ) -> Result<(Vec<LayerReport>, Option<[f64; 2]>)> {
        let &Self { source, output, identity, config, plan } = self;
        let folder = output.join(CHECKPOINTS);
        let predictions = (config.learned_temperature, config.learned_top_k);
        let id = folder::fingerprint(source)?;
        let teacher = Teacher::prepare(model, &id, sequences, predictions, &folder, observer)?;
        let mut layers = self.calibrate(model, sequences, &format!("{CHECKPOINTS}/blocks"), observer)?;
        let divergence = learn(model, sequences, &teacher, config, (&folder, identity.clone()), observer)?;
        let is_learned = |layer: &&mut LayerReport| plan.formats[&layer.path].mode() == Mode::Affine;
        if divergence.is_none_or(|[before, after]| after < before) {
            layers.iter_mut().filter(is_learned).for_each(|layer| layer.technique += ", learned");
        }
        Ok((layers, divergence))
    }
}

/// Mean squares of the inputs of the output head, `[hidden]`.
fn head_importance(model: &Model, stream: &BlockStream) -> Result<Vec<f32>> {
    let mut sum: Option<Array> = None;
    for x in stream.batches() {
        let x = model.apply_final_norm(x)?.as_dtype(Dtype::Float32)?;
        let squares = x.reshape(&[-1, x.dim(-1)])?.square()?.mean_axis(0, false)?;
        let total = match sum {
            Some(sum) => sum.add(squares)?,
            None => squares,
        };
        kernels::eval([&total])?;
        sum = Some(total);
    }
    Ok(sum.map(|sum| sum.as_slice::<f32>().to_vec()).unwrap_or_default())
}

/// Reports `done` of `total`.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn progress(observer: &mut dyn Observer, done: usize, total: usize) -> Result<()> {
    let event = Event::Progress { stage: "quantize".to_owned(), done: done as u64, total: total as u64 };
    if observer.on(&event) == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
}
