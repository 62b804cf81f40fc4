//! [Centered clipping](https://arxiv.org/abs/2012.10333): `v ← v + 1/n Σ (xᵢ - v)·min(1, τ/‖xᵢ - v‖)`, from the
//! reference on.

use super::{Combination, Decision};
use crate::federated::distances::Distances;

pub(super) fn iterations() -> usize {
    3
}

pub(super) fn decide(distances: &Distances, tau: f64, iterations: usize) -> Decision {
    let n = distances.updates();
    // v = reference + Σ shareᵢ·(xᵢ - reference)
    let mut shares = vec![0.0; n];
    let mut lengths = Vec::new();
    for _ in 0..iterations {
        lengths = from_centre(distances, &shares);
        let factors: Vec<f64> =
            lengths.iter().map(|&x: &f64| if x > tau { tau / x } else { 1.0 } / n as f64).collect();
        let kept = 1.0 - factors.iter().sum::<f64>();
        for (share, factor) in shares.iter_mut().zip(factors) {
            *share = *share * kept + factor;
        }
    }
    Decision { combination: Combination::Shares(shares), scores: Some(lengths) }
}

/// `‖xᵢ - v‖` of every update.
fn from_centre(distances: &Distances, shares: &[f64]) -> Vec<f64> {
    let n = distances.updates();
    let with_centre: Vec<f64> = (0..n)
        .map(|i| shares.iter().enumerate().map(|(j, share)| share * distances.product(i, j)).sum())
        .collect();
    let own: f64 = with_centre.iter().zip(shares).map(|(product, share)| product * share).sum();
    (0..n).map(|i| (distances.product(i, i) - 2.0 * with_centre[i] + own).max(0.0).sqrt()).collect()
}
