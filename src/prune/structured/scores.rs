//! How much each unit of a layer should stay: a channel of a feed-forward layer, or a group of heads.
//!
//! | method | score |
//! |---|---|
//! | magnitude | root of the sum of squares of all weights of the unit |
//! | activation ([Minitron](https://arxiv.org/abs/2407.14679)) | mean of `\|x\|`, with what the layer behind reads of it, `x` |
//! | wanda | `√(Σ mean of x²·‖column‖²)`, with the columns that read it: how much it contributes to the output |
//! | [taylor](crate::prune::taylor) | how much the loss changes without it, to first order |
//! | random | random |

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::calibrate::{Matrix, SecondMoments, with_weight};
use crate::models::Model;
use crate::nn::units::Units;
use crate::prune::config::PruneConfig;
use crate::prune::method::Method;
use crate::rng::digest;

/// The score of each of `units`, of which `moments` and `changes` are known where the method needs them.
///
/// # Errors
/// Weights that are not finite; errors from MLX.
pub(super) fn scores(
    model: &mut Model,
    units: &Units,
    moments: Option<&SecondMoments>,
    changes: Option<&[f32]>,
    config: &PruneConfig,
) -> Result<Vec<f32>> {
    let of_units = |columns: &[f32]| -> Vec<f32> {
        columns.chunks_exact(units.columns).map(|of_unit| of_unit.iter().sum()).collect()
    };
    match (config.method(), moments, changes) {
        (Method::Random, ..) => return Ok(random(&units.reader, units.count, config.seed)),
        (Method::Taylor, _, Some(changes)) => return Ok(changes.to_vec()),
        (Method::Activation, Some(moments), _) => return Ok(of_units(moments.magnitudes())),
        _ => {}
    }
    let mut read = |path: &str| with_weight(model, path, |weight| Matrix::read(path, &weight));
    let mut squares = vec![0.0_f32; units.count * units.columns];
    for row in read(&units.reader)?.values.chunks_exact(squares.len()) {
        squares.iter_mut().zip(row).for_each(|(sum, weight)| *sum += weight * weight);
    }
    if let (Method::Wanda, Some(moments)) = (config.method(), moments) {
        squares.iter_mut().zip(moments.mean_squares()).for_each(|(square, mean)| *square *= mean);
    }
    let mut sums = of_units(&squares);
    if config.method() == Method::Magnitude {
        for rows in &units.rows {
            let Matrix { values, columns, .. } = read(&rows.path)?;
            let of_unit = values[rows.first * columns..].chunks_exact(rows.size * columns);
            for (sum, weights) in sums.iter_mut().zip(of_unit) {
                *sum += weights.iter().map(|weight| weight * weight).sum::<f32>();
            }
        }
    }
    Ok(sums.into_iter().map(f32::sqrt).collect())
}

/// Random scores of the units at `path`; the same for the same `seed`.
pub(super) fn random(path: &str, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(digest(path.bytes().map(u64::from).chain([seed])));
    (0..count).map(|_| rng.random()).collect()
}
