//! [Geometric median](https://arxiv.org/abs/1912.13445): `argmin Σ wᵢ‖xᵢ - z‖` by Weiszfeld's algorithm,
//! `z ← Σ bᵢxᵢ / Σ bᵢ` with `bᵢ = wᵢ / max(‖xᵢ - z‖, ν)`.
//!
//! `z` is a mean of updates at every step, so that the distances between updates tell those from `z`.

use super::{Combination, Decision};
use crate::federated::distances::Distances;

/// Smoothing `ν`, relative to the mean distance at the start.
const SMOOTHING: f64 = 1e-6;

/// Change of the sum of distances, relative, that ends the iteration.
const TOLERANCE: f64 = 1e-12;

pub(super) fn iterations() -> usize {
    100
}

pub(super) fn decide(distances: &Distances, weights: &[f64], iterations: usize) -> Decision {
    let total: f64 = weights.iter().sum();
    let mut shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
    let lengths = |shares: &[f64]| -> Vec<f64> {
        distances.to_combination(shares).into_iter().map(f64::sqrt).collect()
    };
    let sum = |lengths: &[f64]| -> f64 { lengths.iter().zip(weights).map(|(x, weight)| x * weight).sum() };
    let mut found = lengths(&shares);
    let start = sum(&found);
    let smallest = SMOOTHING * start / total;
    let mut objective = start;
    for _ in 0..iterations {
        if objective == 0.0 {
            break;
        }
        let inverse: Vec<f64> =
            found.iter().zip(weights).map(|(x, weight)| weight / x.max(smallest)).collect();
        let scale: f64 = inverse.iter().sum();
        shares = inverse.iter().map(|x| x / scale).collect();
        found = lengths(&shares);
        let before = objective;
        objective = sum(&found);
        if (before - objective).abs() <= TOLERANCE * start {
            break;
        }
    }
    Decision { combination: Combination::Shares(shares), scores: Some(found) }
}
