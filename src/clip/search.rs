//! Exact search for the nearest features.

use mlx_rs::Array;
use rayon::prelude::*;

use crate::kernels::matmul::{Transpose, matmul};
use crate::progress::Observer;
use crate::{Error, Result, kernels, threads};

/// Similarities that are held at once.
const AT_ONCE: usize = 1 << 22;

/// The best matches of each query, the best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Matches per query.
    pub count: usize,
    /// Numbers of rows of the index, `[queries, count]`.
    pub indices: Vec<u32>,
    /// Their similarities, `[queries, count]`.
    pub scores: Vec<f32>,
}

/// Finds the `count` rows of `index`, `[rows, dim]`, with the largest inner product with each of `queries`,
/// `[queries, dim]`; of equal ones the first.
///
/// # Errors
/// Features of different sizes, or that are not numbers; [`Error::Interrupted`].
pub fn search(
    queries: &[f32],
    index: &[f32],
    dim: usize,
    count: usize,
    observer: &mut dyn Observer,
) -> Result<Neighbours> {
    let rows = index.len() / dim.max(1);
    let count = count.min(rows);
    let mut found = Neighbours { count, indices: Vec::new(), scores: Vec::new() };
    threads::start()?;
    similarities(queries, index, dim, observer, |_, scores| {
        let best: Vec<Vec<u32>> = scores.par_chunks(rows).map(|scores| best(scores, count)).collect();
        for (row, scores) in best.iter().zip(scores.chunks(rows)) {
            found.scores.extend(row.iter().map(|&i| scores[i as usize]));
            found.indices.extend(row);
        }
    })?;
    Ok(found)
}

/// Calls `visit` with similarities of a part of `queries` to all of `index`, `[part, rows]`, and the number of the first
/// query, part by part.
pub(super) fn similarities(
    queries: &[f32],
    index: &[f32],
    dim: usize,
    observer: &mut dyn Observer,
    mut visit: impl FnMut(usize, &[f32]),
) -> Result<()> {
    if dim == 0 || !queries.len().is_multiple_of(dim) || !index.len().is_multiple_of(dim) {
        return Err(Error::Config(format!(
            "{} and {} numbers are no rows of {dim} features",
            queries.len(),
            index.len()
        )));
    }
    if queries.iter().chain(index).any(|x| !x.is_finite()) {
        return Err(Error::Config("features hold NaN or infinity, which cannot be compared".into()));
    }
    let rows = index.len() / dim;
    if rows == 0 {
        return Ok(());
    }
    let all = Array::from_slice(index, &[rows as i32, dim as i32]);
    let part = (AT_ONCE / rows).max(1);
    for (i, queries) in queries.chunks(part * dim).enumerate() {
        if observer.poll().is_break() {
            return Err(Error::Interrupted);
        }
        let queries = Array::from_slice(queries, &[(queries.len() / dim) as i32, dim as i32]);
        let scores = matmul(&queries, &all, Transpose::B)?;
        kernels::eval([&scores])?;
        visit(i * part, scores.as_slice::<f32>());
    }
    Ok(())
}

/// The numbers of the `count` largest scores, in order.
fn best(scores: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if count == 0 {
        return Vec::new();
    }
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, by_score);
        order.truncate(count);
    }
    order.sort_unstable_by(by_score);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn the_nearest_come_first_and_equal_ones_in_order() {
        let index = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, -1.0, 0.0];
        let found = search(&[1.0, 0.1, 0.0, -1.0], &index, 2, 3, &mut Silent).unwrap();
        assert_eq!((found.count, &found.indices[..]), (3, &[0, 2, 1, 0, 2, 3][..]));
        assert_eq!(found.scores[..3], [1.0, 1.0, 0.1]);
        assert_eq!(search(&[1.0, 0.0], &index, 2, 9, &mut Silent).unwrap().count, 4);
        assert_eq!(search(&[1.0, 0.0], &[], 2, 9, &mut Silent).unwrap().indices, Vec::<u32>::new());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let error = |queries: &[f32], index: &[f32]| {
            search(queries, index, 2, 1, &mut Silent).unwrap_err().to_string()
        };
        assert!(error(&[1.0], &[1.0, 0.0]).contains("no rows of 2 features"));
        assert!(error(&[1.0, f32::NAN], &[1.0, 0.0]).contains("NaN"));
    }
}
