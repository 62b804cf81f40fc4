//! Structured pruning: the result is a smaller model.
//!
//! | pattern | file | what goes | methods |
//! |---|---|---|---|
//! | depth | `depth` | blocks | activation ([block influence](influence)), random |
//! | width | `width` | channels of feed-forward layers, groups of heads | activation, wanda, taylor, magnitude, random |
//! | | `hidden` | channels of the residual stream | the same |
//! | width+depth | | blocks, then what `width` says of those that stay | activation, wanda, taylor, random |

mod cuts;
mod depth;
mod hidden;
mod influence;
mod resized;
mod scores;
mod width;

use serde_json::Value;

use self::depth::Depth;
use self::width::Width;
use super::config::PruneConfig;
use super::pattern::Pattern;
use super::report::BlockReport;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result};

/// A smaller model.
pub(super) struct Outcome {
    pub model: Box<Model>,
    /// Its `config.json`.
    pub file: Value,
    /// What was done to each block of the larger one.
    pub blocks: Vec<BlockReport>,
    /// Fraction of the blocks or channels that went, where it is of one kind.
    pub sparsity: Option<f64>,
    /// Channels of the residual stream that went.
    pub removed_hidden: Vec<usize>,
}

/// What is to be removed from a model.
#[derive(Debug)]
pub(super) enum Structured<'a> {
    Depth(Depth<'a>),
    Width(Width),
    /// Blocks first, then the width of those that stay.
    Both(Depth<'a>, Width),
}

impl<'a> Structured<'a> {
    /// Plans the removal of what `config` says from `model`, which `file`, a `config.json`, describes.
    ///
    /// # Errors
    /// A quantized model; a family that cannot express it; nothing to remove.
    pub(super) fn new(model: &mut Model, file: &'a Value, config: &PruneConfig) -> Result<Self> {
        model.visit_quantizable(&mut |path, weight| match weight.format {
            None => Ok(()),
            Some(_) => Err(Error::Config(format!(
                "{path} is quantized: prune the original model, and quantize the result"
            ))),
        })?;
        Ok(match config.pattern {
            Pattern::Width => Self::Width(Width::new(model, file, config)?),
            Pattern::WidthDepth => {
                let width = Width::new(model, file, config)?;
                Self::Both(Depth::new(model, file, config)?, width)
            }
            _ => Self::Depth(Depth::new(model, file, config)?),
        })
    }

    /// Number of blocks that are changed.
    pub(super) fn blocks(&self) -> usize {
        match self {
            Self::Depth(depth) => depth.remove(),
            Self::Width(width) | Self::Both(_, width) => width.blocks(),
        }
    }

    /// Creates the smaller model.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`].
    pub(super) fn run(
        &self,
        model: &mut Model,
        sequences: Option<&[Vec<u32>]>,
        config: &PruneConfig,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        match self {
            Self::Depth(depth) => depth.run(model, sequences, config, observer),
            Self::Width(width) => width.run(model, sequences, config, observer),
            Self::Both(depth, _) => {
                let Outcome { model: mut shallow, file, mut blocks, .. } =
                    depth.run(model, sequences, config, observer)?;
                let width = Width::new(shallow.as_ref(), &file, config)?;
                let narrow = width.run(shallow.as_mut(), sequences, config, observer)?;
                let stay = blocks.iter_mut().filter(|block| !block.removed);
                for (block, found) in stay.zip(narrow.blocks) {
                    *block = BlockReport { path: block.path.clone(), influence: block.influence, ..found };
                }
                Ok(Outcome { blocks, sparsity: None, ..narrow })
            }
        }
    }
}

/// How many of `count` go at a `sparsity`: at least one, but not all.
fn count_of(count: usize, sparsity: f64) -> usize {
    ((count as f64 * sparsity).round() as usize).clamp(1, count - 1)
}
