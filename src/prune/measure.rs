//! How long the parts of pruning one layer take.

use std::time::Instant;

use mlx_rs::{Array, random};
use serde::{Deserialize, Serialize};

use super::pattern::Pattern;
use super::sparsegpt::sparsegpt;
use super::wanda::wanda;
use crate::calibrate::{InverseFactor, SecondMoments, column_squares};
use crate::{Error, Result, kernels};

/// Numbers of a matrix at most: 1 GiB.
const MAX_NUMBERS: usize = 1 << 28;

/// Damping of the factor: the default of pruning.
const DAMPING: f64 = 0.01;

/// A layer with random weights and inputs.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredLayer {
    /// Rows of the weight.
    pub rows: usize,
    /// Columns of the weight.
    pub columns: usize,
    /// Calibration tokens.
    pub tokens: usize,
    /// Tokens that are added at once.
    pub sequence_length: usize,
    /// Fraction of the weights that goes.
    pub sparsity: f64,
}

/// Seconds of each part.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Seconds {
    /// Norms of the columns, which is all that Wanda needs.
    pub norms: f64,
    /// Wanda's mask.
    pub wanda: f64,
    /// The Hessian.
    pub hessian: f64,
    /// The factor of its inverse.
    pub factor: f64,
    /// `SparseGPT`'s mask and weights.
    pub sparsegpt: f64,
}

/// Prunes `layer` once by each method.
///
/// # Errors
/// Sizes of 0 or too large, by name; errors from MLX.
pub fn measure(layer: &MeasuredLayer) -> Result<Seconds> {
    let MeasuredLayer { rows, columns, tokens, sequence_length, sparsity } = *layer;
    let sizes =
        [("rows", rows), ("columns", columns), ("tokens", tokens), ("sequence_length", sequence_length)];
    if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
        return Err(Error::Config(format!("{name} is {size}, expected 1 to {}", 1 << 20)));
    }
    if [rows, columns, tokens].into_iter().any(|size| size * columns > MAX_NUMBERS) {
        return Err(Error::Config(format!("columns is {columns}, too many for these rows and tokens")));
    }
    if !(sparsity > 0.0 && sparsity < 1.0) {
        return Err(Error::Config(format!("sparsity is {sparsity}, expected a value between 0 and 1")));
    }
    let draw = |rows: usize, seed| -> Result<Array> {
        let key = random::key(seed)?;
        let x = random::normal::<f32>(&[rows as i32, columns as i32], None, None, &key)?;
        kernels::eval([&x])?;
        Ok(x)
    };
    let weights = draw(rows, 1)?;
    let mut weights = weights.as_slice::<f32>().to_vec();
    let inputs: Vec<Array> = (0..tokens)
        .step_by(sequence_length)
        .zip(2..)
        .map(|(start, seed)| draw(sequence_length.min(tokens - start), seed))
        .collect::<Result<_>>()?;
    let mut start = Instant::now();
    let mut lap = || std::mem::replace(&mut start, Instant::now()).elapsed().as_secs_f64();
    inputs.iter().try_for_each(|x| column_squares(x).map(drop))?;
    let norms = lap();
    let mut moments = SecondMoments::new(columns);
    inputs.iter().try_for_each(|x| moments.add(x))?;
    let hessian = lap();
    let mask = wanda(&weights, &moments, Pattern::Unstructured, sparsity);
    let of_wanda = lap();
    drop(mask);
    lap();
    let factor = InverseFactor::new(&moments, false, DAMPING)?;
    let of_factor = lap();
    sparsegpt(&mut weights, &factor, Pattern::Unstructured, sparsity);
    Ok(Seconds { norms, wanda: of_wanda, hessian, factor: of_factor, sparsegpt: lap() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        let layer = MeasuredLayer { rows: 8, columns: 16, tokens: 40, sequence_length: 32, sparsity: 0.5 };
        let seconds = measure(&layer).unwrap();
        assert!(seconds.hessian > 0.0 && seconds.sparsegpt > 0.0);
        for (wrong, name) in [
            (MeasuredLayer { rows: 0, ..layer }, "rows is 0"),
            (MeasuredLayer { columns: 1 << 20, ..layer }, "columns is 1048576"),
            (MeasuredLayer { sparsity: 1.0, ..layer }, "sparsity is 1"),
        ] {
            assert!(measure(&wrong).unwrap_err().to_string().contains(name));
        }
    }
}
