//! Mixtures of updates that robust rules are given instead, since honest updates of unlike data look like attacks.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::distances::Distances;

/// The mean of each update and its nearest, `n - f` in all
/// ([nearest-neighbour mixing](https://arxiv.org/abs/2302.01772)). `[updates, updates]`
pub(super) fn nearest_neighbours(distances: &Distances, hostile: usize) -> Vec<Vec<f64>> {
    let n = distances.updates();
    let kept = n.saturating_sub(hostile).max(1);
    let row = |i: usize| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| {
            (a != i, distances.squared(i, a))
                .partial_cmp(&(b != i, distances.squared(i, b)))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let mut row = vec![0.0; n];
        order[..kept].iter().for_each(|&near| row[near] = 1.0 / kept as f64);
        row
    };
    (0..n).map(row).collect()
}

/// Means of groups of `size` updates drawn by chance ([bucketing](https://arxiv.org/abs/2006.09365)); the last may be
/// smaller. `[buckets, updates]`
pub(super) fn bucketing(updates: usize, size: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut order: Vec<usize> = (0..updates).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let bucket = |members: &[usize]| {
        let mut row = vec![0.0; updates];
        for &member in members {
            row[member] = 1.0 / members.len() as f64;
        }
        row
    };
    order.chunks(size).map(bucket).collect()
}

/// `valuesᵀ·mixture`: what falls to every update of what its mixtures get.
pub(super) fn through(mixture: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; mixture.first().map_or(0, Vec::len)];
    for (row, value) in mixture.iter().zip(values) {
        for (sum, coefficient) in sums.iter_mut().zip(row) {
            *sum += value * coefficient;
        }
    }
    sums
}
