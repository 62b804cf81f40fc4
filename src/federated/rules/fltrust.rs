//! [FLTrust](https://arxiv.org/abs/2012.13995): the server trains on a few examples of its own, and its update `s`, the
//! last, says whom to trust: `reference + Σ tᵢ·‖s‖/‖xᵢ‖·xᵢ / Σ tᵢ` with `tᵢ = max(0, cos(xᵢ, s))`.

use super::{Combination, Decision};
use crate::federated::distances::Distances;
use crate::{Error, Result};

pub(super) fn decide(distances: &Distances) -> Result<Decision> {
    let server = distances.updates() - 1;
    let length = |i: usize| distances.product(i, i).max(0.0).sqrt();
    let own = length(server);
    if own == 0.0 {
        return Err(Error::Config("fltrust: the server's update, the last, is zero".into()));
    }
    let cosines: Vec<f64> = (0..server)
        .map(|i| match length(i) {
            0.0 => 0.0,
            x => distances.product(i, server) / (x * own),
        })
        .collect();
    let total: f64 = cosines.iter().map(|cosine| cosine.max(0.0)).sum();
    let mut shares = vec![0.0; server + 1];
    if total > 0.0 {
        for (i, cosine) in cosines.iter().enumerate().filter(|(_, cosine)| **cosine > 0.0) {
            shares[i] = cosine / total * own / length(i);
        }
    } else {
        // Nobody agrees with the server, which goes on alone.
        shares[server] = 1.0;
    }
    let scores = cosines.iter().map(|cosine| 1.0 - cosine).chain([0.0]).collect();
    Ok(Decision { combination: Combination::Shares(shares), scores: Some(scores) })
}
