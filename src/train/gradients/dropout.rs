//! Dropout keys, equal whenever a step is recomputed.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp as _;

use crate::Result;
use crate::nn::Network;
use crate::rng::{self, Purpose};
use crate::train::task::ForwardOptions;

/// Returns a key for each linear layer of `model`, `[layers, 2]`; `None` if no layer has dropout or `options`
/// disables it.
///
/// # Errors
/// Errors from MLX.
pub(super) fn keys<M: Network + ?Sized>(model: &mut M, options: &ForwardOptions) -> Result<Option<Array>> {
    let (mut layers, mut has_dropout) = (0, false);
    model.visit_linears(&mut |_, linear| {
        layers += 1;
        has_dropout |= linear.low_rank.dropout > 0.0;
        Ok(())
    })?;
    Ok(options.rng_path.filter(|_| has_dropout).map(|(seed, [micro, part, rank])| {
        let paths = (1..=layers).map(|layer| [micro, part, rank, layer]);
        rng::keys(seed, Purpose::Dropout, paths)
    }))
}

/// Sets the key of every layer of `model` that has dropout; `None` disables dropout.
///
/// # Errors
/// Errors from MLX.
pub(super) fn set_keys<M: Network + ?Sized>(model: &mut M, keys: Option<&Array>) -> Result<()> {
    let mut layer = 0;
    model.visit_linears(&mut |_, linear| {
        let keys = keys.filter(|_| linear.low_rank.dropout > 0.0);
        linear.low_rank.dropout_key = keys.map(|keys| keys.try_index(layer)).transpose()?;
        layer += 1;
        Ok(())
    })
}
