//! [Krum](https://arxiv.org/abs/1703.02757): the score of an update is the sum of its squared distances to the `n - f - 2`
//! updates nearest to it. [Bulyan](https://arxiv.org/abs/1802.07927) takes, in each column, the `n - 4f` numbers nearest
//! to the median of the `n - 2f` updates with the lowest scores.

use kernels::updates::Statistic;

use super::{Combination, Decision};
use crate::federated::distances::Distances;

/// Mean of the `m` updates with the lowest scores.
pub(super) fn multi_krum(distances: &Distances, weights: &[f64], f: usize, m: usize) -> Decision {
    let scores = scores(distances, f);
    let chosen = lowest(&scores, m);
    let total: f64 = chosen.iter().map(|&row| weights[row]).sum();
    let mut shares = vec![0.0; weights.len()];
    for &row in &chosen {
        shares[row] = weights[row] / total;
    }
    Decision { combination: Combination::Shares(shares), scores: Some(scores) }
}

/// Mean around the median of the updates with the lowest scores.
pub(super) fn bulyan(distances: &Distances, f: usize) -> Decision {
    let (n, scores) = (distances.updates(), scores(distances, f));
    let statistic = Statistic::MeanAroundMedian { keep: n - 4 * f };
    let rows = lowest(&scores, n - 2 * f);
    Decision { combination: Combination::Columns { rows, statistic }, scores: Some(scores) }
}

fn scores(distances: &Distances, f: usize) -> Vec<f64> {
    let n = distances.updates();
    let near = n.saturating_sub(f + 2).max(1).min(n - 1);
    let score = |i: usize| {
        let mut others: Vec<f64> = (0..n).filter(|&j| j != i).map(|j| distances.squared(i, j)).collect();
        others.sort_by(f64::total_cmp);
        others[..near].iter().sum()
    };
    (0..n).map(score).collect()
}

/// Rows with the lowest scores; of equal ones the first.
fn lowest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    rows.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    rows.truncate(count);
    rows
}
