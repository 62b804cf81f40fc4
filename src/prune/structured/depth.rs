//! Removing whole blocks: those of least [influence](super::influence).

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::influence::Influence;
use super::resized::resized;
use super::{Outcome, count_of};
use crate::models::{Model, keep_blocks, needs_consecutive};
use crate::progress::Observer;
use crate::prune::config::PruneConfig;
use crate::prune::method::Method;
use crate::prune::plan::Skipped;
use crate::prune::report::BlockReport;
use crate::{Error, Result};

/// What may be removed from a model.
#[derive(Debug)]
pub(in crate::prune) struct Depth<'a> {
    /// `config.json`.
    file: &'a Value,
    /// Whether each block must stay.
    skipped: Vec<bool>,
    /// Number of blocks to remove.
    remove: usize,
    contiguous: bool,
}

impl<'a> Depth<'a> {
    /// Checks that blocks of `model`, which `file` describes, can be removed as `config` says.
    ///
    /// # Errors
    /// A pattern that no layer matches; a family that cannot express it; too few blocks.
    pub(super) fn new(model: &mut Model, file: &'a Value, config: &PruneConfig) -> Result<Self> {
        let count = model.block_count();
        if count < 2 {
            return Err(Error::Config(
                "pattern depth: the model has one block, and at least one must stay".into(),
            ));
        }
        let mut skipped = vec![false; count];
        let blocks: Vec<String> = (0..count).map(|i| model.block_path(i) + ".").collect();
        let mut skip = Skipped::new(config)?;
        model.visit_linears(&mut |path, _| {
            if skip.matches(path)
                && let Some(block) = blocks.iter().position(|block| path.starts_with(block.as_str()))
            {
                skipped[block] = true;
            }
            Ok(())
        })?;
        skip.check_used()?;
        let remove = count_of(count, config.share());
        let depth = Self { file, skipped, remove, contiguous: config.contiguous };
        if !depth.contiguous && remove > 1 && needs_consecutive(file)? {
            return Err(Error::Config(
                "pattern depth: the kind of a block of this family follows from its number, so that only consecutive \
                 blocks can go: set contiguous (--contiguous)"
                    .into(),
            ));
        }
        // Whether there is a choice does not depend on the scores.
        depth.kept(&vec![0.0; count], &vec![0.0; count + 1 - remove])?;
        Ok(depth)
    }

    /// Number of blocks to remove.
    pub(super) fn remove(&self) -> usize {
        self.remove
    }

    /// Removes blocks from `model`.
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
        let influence = match (config.method(), sequences) {
            (Method::Random, _) | (_, None) => None,
            (_, Some(sequences)) => Some(Influence::measure(model, sequences, self.remove, observer)?),
        };
        let count = self.skipped.len();
        let kept = if let Some(Influence { blocks, spans }) = &influence {
            self.kept(blocks, spans)?
        } else {
            let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
            let mut order = |n: usize| {
                let mut scores: Vec<f64> = (0..n).map(|i| i as f64).collect();
                scores.shuffle(&mut rng);
                scores
            };
            self.kept(&order(count), &order(count + 1 - self.remove))?
        };
        let blocks = (0..count).map(|i| BlockReport {
            path: model.block_path(i),
            removed: !kept.contains(&i),
            influence: influence.as_ref().map(|found| found.blocks[i]),
            ..BlockReport::default()
        });
        let blocks = blocks.collect();
        let file = keep_blocks(self.file, &kept)?;
        let smaller = resized(model, &file, &kept, &|_, tensor| Ok(tensor.clone()))?;
        let sparsity = Some(self.remove as f64 / count as f64);
        Ok(Outcome { model: smaller, file, blocks, sparsity, removed_hidden: Vec::new() })
    }

    /// The blocks that stay if those of the lowest score go: of each block, or of consecutive ones by the first.
    fn kept(&self, blocks: &[f64], spans: &[f64]) -> Result<Vec<usize>> {
        let all: Vec<usize> = (0..blocks.len()).collect();
        let without = |kept: &[usize], first: usize, count: usize| -> Vec<usize> {
            kept.iter().copied().filter(|&i| i < first || i >= first + count).collect()
        };
        let mut refused = None;
        let mut allowed = |kept: Vec<usize>, first: usize, count: usize| {
            if self.skipped[first..first + count].contains(&true) {
                return None;
            }
            match keep_blocks(self.file, &kept) {
                Ok(_) => Some(kept),
                Err(error) => {
                    refused = Some(error);
                    None
                }
            }
        };
        if self.contiguous {
            for first in ascending(spans) {
                if let Some(kept) = allowed(without(&all, first, self.remove), first, self.remove) {
                    return Ok(kept);
                }
            }
        } else {
            let mut kept = all;
            for block in ascending(blocks) {
                if let Some(fewer) = allowed(without(&kept, block, 1), block, 1) {
                    kept = fewer;
                }
                if kept.len() + self.remove == blocks.len() {
                    return Ok(kept);
                }
            }
        }
        let why = refused.map_or("too many are skipped".to_owned(), |error| error.to_string());
        let which = if self.contiguous { " consecutive" } else { "" };
        Err(Error::Config(format!(
            "pattern depth: {}{which} of {} blocks cannot go: {why}; choose another sparsity",
            self.remove,
            blocks.len()
        )))
    }
}

/// Indices of `scores` from the lowest on; of equal ones the last, since late blocks matter less.
fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    order
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn depth(file: &Value, contiguous: bool, remove: usize) -> Depth<'_> {
        Depth { file, skipped: vec![false; 6], remove, contiguous }
    }

    #[test]
    fn the_lowest_scores_go() {
        let file = json!({"model_type": "llama", "num_hidden_layers": 6});
        let blocks = [0.9, 0.1, 0.5, 0.2, 0.6, 0.3];
        let spans = [0.9, 0.5, 0.6, 0.7, 0.4];
        assert_eq!(depth(&file, false, 2).kept(&blocks, &spans).unwrap(), [0, 2, 4, 5]);
        assert_eq!(depth(&file, true, 2).kept(&blocks, &spans).unwrap(), [0, 1, 2, 3]);
        let mut protected = depth(&file, true, 2);
        protected.skipped[5] = true;
        assert_eq!(protected.kept(&blocks, &spans).unwrap(), [0, 3, 4, 5]);
        protected.skipped = vec![true; 6];
        assert!(protected.kept(&blocks, &spans).unwrap_err().to_string().contains("too many are skipped"));
    }

    #[test]
    fn what_is_removed_can_be_expressed() {
        let file = json!({"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3});
        let spans = [0.9, 0.1, 0.5, 0.3];
        assert_eq!(depth(&file, true, 3).kept(&[0.0; 6], &spans).unwrap(), [0, 4, 5]);
        let file = json!({"model_type": "lfm2", "num_hidden_layers": 6, "full_attn_idxs": [2, 4]});
        let blocks = [0.9, 0.8, 0.1, 0.7, 0.2, 0.6];
        assert_eq!(depth(&file, false, 2).kept(&blocks, &[]).unwrap(), [0, 1, 3, 4]);
    }
}
