//! How much the predictions of a model suffer when one block is pruned.

use super::block::prune_block;
use super::config::{PruneConfig, Repair};
use super::method::Method;
use super::plan::Plan;
use super::progress::progress;
use crate::Result;
use crate::calibrate::{BlockStream, Reference, hold_out, with_weight};
use crate::models::Model;
use crate::progress::Observer;

/// Logarithm of the mean divergence of the predictions, for each block pruned alone by Wanda.
///
/// # Errors
/// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn measure(
    model: &mut Model,
    plan: &Plan,
    sequences: &[Vec<u32>],
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<f64>> {
    let (seen, judged) = hold_out(sequences, model.vocab_size() as usize);
    let config = PruneConfig { method: Some(Method::Wanda), repair: Repair::None, ..config.clone() };
    let reference = Reference::of(model, judged, observer)?;
    let mut judged = BlockStream::start(model, &reference.sequences)?;
    let mut inputs = BlockStream::start(model, &seen)?;
    let mut found = Vec::new();
    for block in 0..model.block_count() {
        let paths = plan.layers_of(&model.block_path(block));
        let mut kept = Vec::new();
        for path in &paths {
            kept.push(with_weight(model, path, |weight| Ok(weight.weight.clone()))?);
        }
        prune_block(model, &inputs, plan, &config, None, observer)?;
        let divergence = reference.divergence(model, judged.clone(), observer)?;
        for (path, dense) in paths.iter().zip(kept) {
            with_weight(model, path, |weight| {
                *weight.weight = dense;
                Ok(())
            })?;
        }
        found.push(divergence.max(f64::MIN_POSITIVE).ln());
        inputs.advance(model, observer)?;
        judged.advance(model, observer)?;
        progress(observer, "allocate", block + 1, model.block_count())?;
    }
    Ok(found)
}
