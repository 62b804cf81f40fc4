//! Reward metrics of preference pairs.

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

/// Metrics over the [rewards](super::Loss::rewards) of preference pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RewardMetrics {
    /// Fraction of pairs whose chosen answer has the higher reward.
    pub accuracy: f64,
    /// Mean difference of the rewards of the chosen and the rejected answer.
    pub margin: f64,
}

/// Running sums of reward metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::train) struct RewardSum {
    pairs: f64,
    wins: f64,
    margin: f64,
}

impl From<[f64; 3]> for RewardSum {
    fn from([pairs, wins, margin]: [f64; 3]) -> Self {
        Self { pairs, wins, margin }
    }
}

impl RewardSum {
    /// Adds the rewards of a batch, `[rows]`, evaluated; `None` for batches without pairs.
    pub(in crate::train) fn add(&mut self, rewards: Option<&Array>) {
        for pair in rewards.iter().flat_map(|rewards| rewards.as_slice::<f32>().chunks_exact(2)) {
            self.pairs += 1.0;
            self.wins += f64::from(pair[0] > pair[1]);
            self.margin += f64::from(pair[0]) - f64::from(pair[1]);
        }
    }

    /// Adds the sums of `other`.
    pub(in crate::train) fn merge(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.wins += other.wins;
        self.margin += other.margin;
    }

    /// Returns the means; `None` without pairs.
    pub(in crate::train) fn mean(self) -> Option<RewardMetrics> {
        let Self { pairs, wins, margin } = self;
        (pairs > 0.0).then(|| RewardMetrics { accuracy: wins / pairs, margin: margin / pairs })
    }

    /// Returns `first` followed by the sums, for an all-reduce.
    pub(in crate::train) fn with(self, first: f64) -> [f64; 4] {
        [first, self.pairs, self.wins, self.margin]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_is_no_win() {
        let mut sum = RewardSum::default();
        assert_eq!(sum.mean(), None);
        sum.add(Some(&Array::from_slice(&[1.0_f32, 0.5, 2.0, 2.0], &[4])));
        sum.add(None);
        sum.add(Some(&Array::from_slice(&[0.0_f32, 2.0, 0.25, 0.0], &[4])));
        assert_eq!(sum.mean(), Some(RewardMetrics { accuracy: 0.5, margin: -0.3125 }));
    }
}
