//! Facility location: rows `S` such that every row `i` has one in `S` that is similar to it, the greatest
//!
//! ```text
//! f(S) = Σ_i max_{j ∈ S} s(i, j),    s(i, j) = 1 + cos(i, j)
//! ```
//!
//! that is found greedily, at least 1 − 1/e of the optimum
//! ([Wei et al. 2015](https://proceedings.mlr.press/v37/wei15.html)). Gains only shrink as `S` grows, so that an old gain
//! bounds the new one, and few are computed again
//! ([Minoux 1978](https://doi.org/10.1007/BFb0006528), lazy greedy).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::embeddings::Embeddings;
use crate::rng::{Purpose, digest};
use crate::{Result, threads};

/// Rows that are compared with each other; their similarities take 64 MiB. More are divided at random.
const ROWS_AT_ONCE: usize = 4096;

/// Chooses `count` rows, in the order in which they were chosen: the first of them are the best choice of fewer. The
/// result depends on the arguments only.
///
/// # Errors
/// Threads that cannot be started.
///
/// # Panics
/// If there are fewer rows than `count`.
pub fn facility_location(embeddings: &Embeddings, count: usize, seed: u64) -> Result<Vec<usize>> {
    in_parts(embeddings, count, seed, ROWS_AT_ONCE)
}

fn in_parts(embeddings: &Embeddings, count: usize, seed: u64, most: usize) -> Result<Vec<usize>> {
    let rows = embeddings.len();
    assert!(count <= rows, "{count} of {rows} rows");
    threads::start()?;
    let mut order: Vec<usize> = (0..rows).collect();
    let parts = rows.div_ceil(most).max(1);
    if parts > 1 {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(digest([seed, Purpose::Coreset as u64])));
    }
    // Each chosen row with its place among those of its part.
    let mut chosen: Vec<(usize, usize)> = Vec::with_capacity(count);
    for part in 0..parts {
        let [start, end] = [part, part + 1].map(|part| rows * part / parts);
        // In proportion to its rows, of which it is never more.
        let [before, after] = [start, end].map(|row| count * row / rows.max(1));
        let members = &order[start..end];
        let picked = Similarities::new(embeddings, members).choose(after - before);
        chosen.extend(picked.into_iter().map(|index| members[index]).enumerate());
    }
    chosen.sort_by_key(|&(place, _)| place);
    Ok(chosen.into_iter().map(|(_, row)| row).collect())
}

/// Mean over all rows of the similarity to the most similar of the `chosen` ones, from −1 to 1.
///
/// # Panics
/// If there are no rows, or none is chosen.
#[must_use]
pub fn coverage(embeddings: &Embeddings, chosen: &[usize]) -> f64 {
    assert!(!chosen.is_empty() && !embeddings.is_empty(), "nothing to cover");
    let all: Vec<usize> = (0..embeddings.len()).collect();
    // A block of rows at a time, so that memory stays bounded.
    let rows_at_once = (ROWS_AT_ONCE * ROWS_AT_ONCE / chosen.len()).max(1);
    let best = all.chunks(rows_at_once).flat_map(|rows| {
        let values = similarities(embeddings, rows, chosen);
        let best_of = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        values.chunks_exact(chosen.len()).map(best_of).collect::<Vec<_>>()
    });
    best.map(|best| f64::from(best) - 1.0).sum::<f64>() / all.len() as f64
}

/// `s(i, j)` of each of `rows` with each of `others`, `[rows, others]`.
fn similarities(embeddings: &Embeddings, rows: &[usize], others: &[usize]) -> Vec<f32> {
    let dim = embeddings.dim();
    let (left, right) = (embeddings.of(others), embeddings.of(rows));
    let mut values = vec![1.0_f32; rows.len() * others.len()];
    matmul(
        MatMut::from_column_major_slice_mut(&mut values, others.len(), rows.len()),
        Accum::Add,
        MatRef::from_row_major_slice(&left, others.len(), dim),
        MatRef::from_column_major_slice(&right, dim, rows.len()),
        1.0,
        Par::rayon(0),
    );
    values
}

/// Similarities of some rows with each other, `[rows, rows]`.
struct Similarities {
    rows: usize,
    values: Vec<f32>,
}

impl Similarities {
    fn new(embeddings: &Embeddings, members: &[usize]) -> Self {
        Self { rows: members.len(), values: similarities(embeddings, members, members) }
    }

    fn of(&self, row: usize) -> &[f32] {
        &self.values[row * self.rows..(row + 1) * self.rows]
    }

    /// What `candidate` adds to `f`, where `best` is the greatest similarity of each row so far.
    fn gain(&self, candidate: usize, best: &[f32]) -> f64 {
        self.of(candidate).iter().zip(best).map(|(s, best)| f64::from((s - best).max(0.0))).sum()
    }

    /// Lazy greedy choice of `count` rows.
    fn choose(&self, count: usize) -> Vec<usize> {
        let mut best = vec![0.0_f32; self.rows];
        let candidate = |row| Candidate { gain: self.gain(row, &best), row: Reverse(row), chosen: 0 };
        let mut queue: BinaryHeap<Candidate> = (0..self.rows).map(candidate).collect();
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let Some(Candidate { row: Reverse(row), chosen: seen, .. }) = queue.pop() else { break };
            if seen < chosen.len() {
                let gain = self.gain(row, &best);
                queue.push(Candidate { gain, row: Reverse(row), chosen: chosen.len() });
                continue;
            }
            best.iter_mut().zip(self.of(row)).for_each(|(best, &s)| *best = best.max(s));
            chosen.push(row);
        }
        chosen
    }
}

/// A row that may be chosen; the greatest has the largest gain, and the smallest number among equals.
struct Candidate {
    gain: f64,
    row: Reverse<usize>,
    /// Number of rows that were chosen when the gain was computed.
    chosen: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    fn random(rows: usize, dim: usize, seed: u64) -> Embeddings {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..rows * dim).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
        Embeddings::new(values, dim).unwrap()
    }

    /// `f(S)` as it is defined, in float64.
    fn value(embeddings: &Embeddings, chosen: &[usize]) -> f64 {
        let similarity = |i: usize, j: usize| {
            let (a, b) = (embeddings.of(&[i]), embeddings.of(&[j]));
            1.0 + a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
        };
        let nearest = |i| chosen.iter().map(|&j| similarity(i, j)).fold(0.0, f64::max);
        (0..embeddings.len()).map(nearest).sum()
    }

    #[test]
    fn lazy_greedy_is_greedy() {
        for seed in 0..5 {
            let embeddings = random(40, 6, seed);
            let chosen = facility_location(&embeddings, 12, 0).unwrap();
            // Each row adds as much as any could. Two that are each other's nearest add the same.
            for place in 0..chosen.len() {
                let (before, with) = (&chosen[..place], value(&embeddings, &chosen[..=place]));
                let most =
                    (0..40).map(|row| value(&embeddings, &[before, &[row]].concat())).fold(0.0, f64::max);
                assert!((most - with).abs() < 1e-4, "seed {seed}, row {place}: {with}, not {most}");
            }
            // Fewer are the beginning of more.
            assert_eq!(facility_location(&embeddings, 5, 0).unwrap(), chosen[..5]);
            let mean = value(&embeddings, &chosen) / 40.0 - 1.0;
            assert!((coverage(&embeddings, &chosen) - mean).abs() < 1e-6);
        }
    }

    #[test]
    fn greedy_is_near_the_best_of_all_choices() {
        for seed in 0..10 {
            let embeddings = random(14, 3, seed);
            let triples = (0..14).flat_map(|a| (0..a).flat_map(move |b| (0..b).map(move |c| [a, b, c])));
            let best = triples.map(|set| value(&embeddings, &set)).fold(0.0, f64::max);
            let found = value(&embeddings, &facility_location(&embeddings, 3, 0).unwrap());
            assert!(found >= best * (1.0 - (-1.0_f64).exp()) && found <= best * (1.0 + 1e-6));
            assert!(found > 0.9 * best, "seed {seed}: {found} of {best}");
        }
    }

    #[test]
    fn each_group_of_like_rows_is_chosen_from_once() {
        // Eight groups of 2 to 40 rows around the corners of a cube.
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let sizes = [2, 40, 5, 9, 3, 17, 2, 30];
        let groups: Vec<usize> = (0..8).flat_map(|group| vec![group; sizes[group]]).collect();
        let corner = |group: usize, axis: usize| if group >> axis & 1 == 1 { 1.0_f32 } else { -1.0 };
        let values = groups
            .iter()
            .flat_map(|&group| (0..3).map(move |axis| corner(group, axis)))
            .map(|x| x + rng.random_range(-0.05_f32..0.05))
            .collect();
        let embeddings = Embeddings::new(values, 3).unwrap();
        let of = |chosen: Vec<usize>| {
            let mut found: Vec<usize> = chosen.iter().map(|&row| groups[row]).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(of(facility_location(&embeddings, 8, 0).unwrap()), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn many_rows_are_divided_by_seed() {
        let embeddings = random(103, 4, 1);
        let chosen = |seed| in_parts(&embeddings, 30, seed, 25).unwrap();
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        let mut rows = chosen(1);
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 30);
        // Division costs little.
        let whole = coverage(&embeddings, &facility_location(&embeddings, 30, 0).unwrap());
        assert!(coverage(&embeddings, &chosen(1)) > 0.95 * whole);
        assert!((0..=103).all(|count| in_parts(&embeddings, count, 0, 13).unwrap().len() == count));
    }
}
