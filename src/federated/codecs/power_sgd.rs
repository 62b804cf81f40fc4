//! [PowerSGD](https://arxiv.org/abs/1905.13727): one step of the power method, `P = orthonormal(M·Q)`, `Q = Mᵀ·P`,
//! `M ≈ P·Qᵀ`, from the `Q` of the previous message on.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::float;

/// A tensor as a matrix, and the rank of its factors; none where the factors are no smaller.
fn factors(shape: &[usize], rank: u16) -> Option<(usize, usize, usize)> {
    let (&rows, rest) = shape.split_first()?;
    let columns: usize = rest.iter().product();
    let rank = usize::from(rank).min(rows).min(columns);
    (rank * (rows + columns) < rows * columns).then_some((rows, columns, rank))
}

/// Numbers that are sent.
pub(super) fn numbers(shape: &[usize], rank: u16) -> usize {
    factors(shape, rank)
        .map_or_else(|| shape.iter().product(), |(rows, columns, rank)| rank * (rows + columns))
}

pub(super) fn encode(
    values: &[f64],
    shape: &[usize],
    rank: u16,
    seed: u64,
    previous: Option<&[u8]>,
    message: &mut Vec<u8>,
) {
    let Some((rows, columns, rank)) = factors(shape, rank) else {
        message.extend(values.iter().flat_map(|&x| (x as f32).to_le_bytes()));
        return;
    };
    // Factors are lists of columns.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut right: Vec<Vec<f64>> = match previous {
        Some(previous) => (0..rank)
            .map(|r| {
                (0..columns)
                    .map(|j| f64::from(float(previous, 4 * (rank * rows + r * columns + j))))
                    .collect()
            })
            .collect(),
        None => Vec::new(),
    };
    right.resize_with(rank, Vec::new);
    for column in &mut right {
        // A direction that has died out cannot come back by itself.
        if column.iter().all(|x| *x == 0.0 || !x.is_finite()) {
            *column = (0..columns).map(|_| rng.random::<f64>() - 0.5).collect();
        }
    }
    let mut left: Vec<Vec<f64>> =
        right.iter().map(|q| values.chunks(columns).map(|row| dot(row, q)).collect()).collect();
    orthonormalize(&mut left);
    for (p, q) in left.iter().zip(&mut right) {
        q.fill(0.0);
        for (row, x) in values.chunks(columns).zip(p) {
            for (q, value) in q.iter_mut().zip(row) {
                *q += x * value;
            }
        }
    }
    message.extend(left.iter().chain(&right).flatten().flat_map(|&x| (x as f32).to_le_bytes()));
}

pub(super) fn decode(body: &[u8], shape: &[usize], rank: u16) -> Result<Vec<f32>, &'static str> {
    let Some((rows, columns, rank)) = factors(shape, rank) else {
        return Ok(body.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect());
    };
    let number = |index: usize| f64::from(float(body, 4 * index));
    if (0..rank * (rows + columns)).any(|index| !number(index).is_finite()) {
        return Err("a factor is not finite");
    }
    let mut values = vec![0.0; rows * columns];
    for r in 0..rank {
        for (i, row) in values.chunks_mut(columns).enumerate() {
            let p = number(r * rows + i);
            for (j, value) in row.iter_mut().enumerate() {
                *value += p * number(rank * rows + r * columns + j);
            }
        }
    }
    Ok(values.into_iter().map(|x| x as f32).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram-Schmidt, each column twice for the digits that the first pass loses; what depends on others becomes zero.
fn orthonormalize(columns: &mut [Vec<f64>]) {
    for index in 0..columns.len() {
        let (before, rest) = columns.split_at_mut(index);
        let column = &mut rest[0];
        let length = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let share = dot(column, other);
                for (x, y) in column.iter_mut().zip(other) {
                    *x -= share * y;
                }
            }
        }
        let left = dot(column, column).sqrt();
        let factor = if left > length * 1e-12 { left.recip() } else { 0.0 };
        for x in column.iter_mut() {
            *x *= factor;
        }
    }
}
