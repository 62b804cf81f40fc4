//! How large the inputs of each layer are: the mean square of every column, as llama.cpp's `imatrix` keeps it.

use std::collections::BTreeMap;

use mlx_rs::{Array, Dtype};

use super::block_stream::BlockStream;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Result, kernels};

/// Sums of squares of inputs, and how many there were.
#[derive(Debug, Default)]
struct Sums {
    squares: Vec<f64>,
    tokens: usize,
}

/// Returns the mean squares, `[in]`, of the inputs of every layer of the blocks of `model` over `sequences` of equal
/// length, by key path. Layers that no token reached are missing.
///
/// # Errors
/// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
pub fn mean_squares(
    model: &mut Model,
    sequences: &[Vec<u32>],
    observer: &mut dyn Observer,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut found = BTreeMap::new();
    let mut stream = BlockStream::start(model, sequences)?;
    while stream.block() < model.block_count() {
        let prefix = format!("{}.", model.block_path(stream.block()));
        let mut paths = Vec::new();
        model.visit_linears(&mut |path, _| {
            if path.starts_with(&prefix) {
                paths.push(path.to_owned());
            }
            Ok(())
        })?;
        let mut sums: Vec<Sums> = paths.iter().map(|_| Sums::default()).collect();
        stream.observe(model, &paths, observer, &mut |input| {
            let (squares, tokens) = column_squares(input.x)?;
            for &layer in input.layers {
                let sums = &mut sums[layer];
                sums.squares.resize(squares.len(), 0.0);
                sums.squares.iter_mut().zip(&squares).for_each(|(sum, square)| *sum += f64::from(*square));
                sums.tokens += tokens;
            }
            Ok(())
        })?;
        for (path, Sums { squares, tokens }) in paths.into_iter().zip(sums) {
            if tokens > 0 {
                let means = squares.iter().map(|sum| (sum / tokens as f64) as f32).collect();
                found.insert(path, means);
            }
        }
        stream.advance(model, observer)?;
    }
    Ok(found)
}

/// Sums of squares of the columns of `x`, `[..., in]`, and its number of rows.
///
/// # Errors
/// Errors from MLX.
pub fn column_squares(x: &Array) -> Result<(Vec<f32>, usize)> {
    let rows = x.as_dtype(Dtype::Float32)?.reshape(&[-1, x.dim(-1)])?;
    let sums = rows.square()?.sum_axis(0, false)?;
    kernels::eval([&sums])?;
    Ok((sums.as_slice::<f32>().to_vec(), rows.dim(0) as usize))
}
