//! How the sparsity is divided among the blocks.
//!
//! Each block has a number that tells how much it should keep. The shares that stay are these numbers, scaled to the given
//! range and shifted to the given mean:
//!
//! ```text
//! keep_b = (d_b − min d) / (max d − min d) · 2λ  −  mean  +  (1 − sparsity)
//! ```

use super::config::{Allocation, PruneConfig};
use super::plan::Plan;
use super::progress::progress;
use super::wanda;
use crate::Result;
use crate::calibrate::{BlockStream, Matrix, observe, with_weight};
use crate::models::Model;
use crate::progress::Observer;

/// Sets the sparsity of every block of `plan` as `config` says.
///
/// # Errors
/// Weights that are not finite; errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn allocate(
    model: &mut Model,
    plan: &mut Plan,
    sequences: &[Vec<u32>],
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<()> {
    let importance = match config.allocation {
        Allocation::Uniform => return Ok(()),
        Allocation::Owl => outliers(model, plan, sequences, config, observer)?,
        Allocation::Sensitivity => super::sensitivity::measure(model, plan, sequences, config, observer)?,
    };
    for (block, sparsity) in
        divide(&importance, config.sparsity(), config.allocation_range).iter().enumerate()
    {
        plan.set_block(&model.block_path(block), *sparsity);
    }
    Ok(())
}

/// Share of the scores of each block that are more than `owl_threshold` times the mean of their layer: the layerwise outlier
/// distribution of [OWL](https://arxiv.org/abs/2310.05175).
fn outliers(
    model: &mut Model,
    plan: &Plan,
    sequences: &[Vec<u32>],
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<f64>> {
    let mut stream = BlockStream::start(model, sequences)?;
    let mut shares = Vec::new();
    while stream.block() < model.block_count() {
        let paths = plan.layers_of(&model.block_path(stream.block()));
        let (mut outliers, mut total) = (0, 0);
        for (layers, moments) in observe(&stream, model, &paths, observer)? {
            for layer in layers {
                let path = &paths[layer];
                let Matrix { values, .. } = with_weight(model, path, |weight| Matrix::read(path, &weight))?;
                let scores = wanda::scores(&values, &moments);
                let mean = scores.iter().map(|&score| f64::from(score)).sum::<f64>() / scores.len() as f64;
                let least = (config.owl_threshold * mean) as f32;
                outliers += scores.iter().filter(|&&score| score > least).count();
                total += scores.len();
            }
        }
        shares.push(outliers as f64 / (total.max(1)) as f64);
        stream.advance(model, observer)?;
        progress(observer, "allocate", stream.block(), model.block_count())?;
    }
    Ok(shares)
}

/// The sparsity of each block, by how much it should keep.
fn divide(importance: &[f64], sparsity: f64, range: f64) -> Vec<f64> {
    let (least, most) =
        importance.iter().fold((f64::MAX, f64::MIN), |(least, most), &x| (least.min(x), most.max(x)));
    let spread = most - least;
    if spread <= 0.0 || !spread.is_finite() {
        return vec![sparsity; importance.len()];
    }
    let keep: Vec<f64> = importance.iter().map(|x| (x - least) / spread * 2.0 * range).collect();
    let mean = keep.iter().sum::<f64>() / keep.len() as f64;
    keep.iter().map(|keep| sparsity - (keep - mean)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_kept() {
        let sparsity = divide(&[0.02, 0.06, 0.01, 0.03], 0.7, 0.08);
        // The authors' formula: keep = (d - min) / (max - min) * 0.16 - mean + 0.3.
        let expected = [0.732, 0.604, 0.764, 0.7];
        for (found, expected) in sparsity.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{sparsity:?}");
        }
        assert_eq!(divide(&[1.0; 3], 0.5, 0.08), [0.5; 3]);
    }
}
