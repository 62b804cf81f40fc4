//! Whether a model has come to prefer what it should.

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

/// What the [rewards](super::objective::Scored::rewards) of many pairs tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rewards {
    /// Share of pairs whose chosen answer has the higher reward.
    pub accuracy: f64,
    /// Mean of the chosen answer's reward less the other's.
    pub margin: f64,
}

/// Rewards of the pairs so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RewardSum {
    pairs: usize,
    wins: usize,
    margin: f64,
}

impl RewardSum {
    /// Adds those of one batch, `[rows]`, evaluated; `None` where it holds no pairs.
    pub(super) fn add(&mut self, rewards: Option<&Array>) {
        for pair in rewards.iter().flat_map(|rewards| rewards.as_slice::<f32>().chunks_exact(2)) {
            self.pairs += 1;
            self.wins += usize::from(pair[0] > pair[1]);
            self.margin += f64::from(pair[0]) - f64::from(pair[1]);
        }
    }

    /// `None` where there were no pairs.
    pub(super) fn mean(self) -> Option<Rewards> {
        let pairs = self.pairs as f64;
        (self.pairs > 0).then(|| Rewards { accuracy: self.wins as f64 / pairs, margin: self.margin / pairs })
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
        assert_eq!(sum.mean(), Some(Rewards { accuracy: 0.5, margin: -0.3125 }));
    }
}
