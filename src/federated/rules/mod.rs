//! Rules: which updates count, and how much.
//!
//! | rule | file | tolerates of `n` updates |
//! |---|---|---|
//! | [FedAvg](https://arxiv.org/abs/1602.05629) | here | none |
//! | [median](https://arxiv.org/abs/1803.01498) | here | below n/2 |
//! | [trimmed mean](https://arxiv.org/abs/1803.01498) | here | f < n/2 |
//! | [Krum, Multi-Krum](https://arxiv.org/abs/1703.02757) | `krum` | n ≥ 2f+3 |
//! | [Bulyan](https://arxiv.org/abs/1802.07927) | `krum` | n ≥ 4f+3 |
//! | [geometric median](https://arxiv.org/abs/1912.13445) | `geometric_median` | below n/2 |
//! | [centered clipping](https://arxiv.org/abs/2012.10333) | `centered_clipping` | below n/2 |
//! | [FLTrust](https://arxiv.org/abs/2012.13995) | `fltrust` | any number |

use kernels::updates::Statistic;
use serde::{Deserialize, Serialize};

use super::distances::Distances;
use super::updates::Updates;
use crate::{Error, Result};

mod centered_clipping;
mod fltrust;
mod geometric_median;
mod krum;

/// A rule and its options.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// Mean, by weights.
    #[serde(rename = "fedavg")]
    FedAvg {},
    /// Median of each column.
    Median {},
    /// Mean of each column without its extremes: `f` on each side, or the fraction `beta`.
    TrimmedMean {
        /// Numbers left out on each side.
        #[serde(default)]
        f: Option<usize>,
        /// Fraction of the updates left out on each side.
        #[serde(default)]
        beta: Option<f64>,
    },
    /// The update that is nearest to its neighbours.
    Krum {
        /// Updates that may be hostile.
        f: usize,
    },
    /// Mean, by weights, of the `m` updates nearest to their neighbours.
    MultiKrum {
        /// Updates that may be hostile.
        f: usize,
        /// Updates that count; `n - f - 2` by default.
        #[serde(default)]
        m: Option<usize>,
    },
    /// Mean around the median of those Krum likes best.
    Bulyan {
        /// Updates that may be hostile.
        f: usize,
    },
    /// The point with the least sum of distances, by weights.
    GeometricMedian {
        /// Passes of Weiszfeld's algorithm at most.
        #[serde(default = "geometric_median::iterations")]
        iterations: usize,
    },
    /// Mean of the differences from the reference, none longer than `tau`.
    CenteredClipping {
        /// Length that differences are clipped to.
        tau: f64,
        /// Number of times the centre moves.
        #[serde(default = "centered_clipping::iterations")]
        iterations: usize,
    },
    /// Differences from the reference as far as they agree with that of the server, the last update.
    #[serde(rename = "fltrust")]
    FlTrust {},
}

/// How updates become one.
pub(super) enum Combination {
    /// `reference + Σ shareᵢ·(updateᵢ - reference)`; without a reference the shares add up to one.
    Shares(Vec<f64>),
    /// A statistic of each column of some updates.
    Columns { rows: Vec<usize>, statistic: Statistic },
}

/// What a rule decides.
pub(super) struct Decision {
    pub(super) combination: Combination,
    /// The lower, the more an update is like the others.
    pub(super) scores: Option<Vec<f64>>,
}

impl Decision {
    fn shares(shares: Vec<f64>) -> Self {
        Self { combination: Combination::Shares(shares), scores: None }
    }
}

impl Rule {
    /// Rules with an option `f`.
    pub(super) const KNOW_F: [&'static str; 4] = ["trimmed_mean", "krum", "multi_krum", "bulyan"];

    /// Its name, as in settings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::FedAvg {} => "fedavg",
            Self::Median {} => "median",
            Self::TrimmedMean { .. } => "trimmed_mean",
            Self::Krum { .. } => "krum",
            Self::MultiKrum { .. } => "multi_krum",
            Self::Bulyan { .. } => "bulyan",
            Self::GeometricMedian { .. } => "geometric_median",
            Self::CenteredClipping { .. } => "centered_clipping",
            Self::FlTrust {} => "fltrust",
        }
    }

    /// Checks the options for `n` updates.
    ///
    /// # Errors
    /// The first that is wrong, by name.
    pub(super) fn validate(&self, n: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Config(format!("{}: {what}", self.name())));
        match *self {
            Self::TrimmedMean { f: Some(_), beta: Some(_) } => wrong("pass f or beta, not both".into()),
            Self::TrimmedMean { f: None, beta: None } => {
                wrong("pass f, such as f=1, or beta, such as beta=0.2".into())
            }
            Self::TrimmedMean { beta: Some(beta), .. } if !(0.0..0.5).contains(&beta) => {
                wrong(format!("beta is {beta}, expected at least 0 and below 0.5"))
            }
            Self::TrimmedMean { f: Some(f), .. } if f.saturating_mul(2) >= n => {
                wrong(format!("f is {f}, but {n} updates allow at most {}", n.saturating_sub(1) / 2))
            }
            Self::Krum { f } | Self::MultiKrum { f, .. } if f.saturating_mul(2).saturating_add(3) > n => {
                wrong(format!(
                    "f is {f}, which needs 2f+3 = {} updates, but there are {n}",
                    2 * f as u128 + 3
                ))
            }
            Self::MultiKrum { f, m: Some(m) } if m == 0 || m > n - f => {
                wrong(format!("m is {m}, expected 1 to n-f = {}", n - f))
            }
            Self::Bulyan { f } if f.saturating_mul(4).saturating_add(3) > n => wrong(format!(
                "f is {f}, which needs 4f+3 = {} updates, but there are {n}",
                4 * f as u128 + 3
            )),
            Self::GeometricMedian { iterations: 0 } | Self::CenteredClipping { iterations: 0, .. } => {
                wrong("iterations is 0, expected at least 1".into())
            }
            Self::CenteredClipping { tau, .. } if !(tau.is_finite() && tau > 0.0) => {
                wrong(format!("tau is {tau}, expected a positive number"))
            }
            Self::FlTrust {} if n < 2 => {
                wrong("one update, expected those of clients and the server's own behind them".into())
            }
            _ => Ok(()),
        }
    }

    /// Checks that there is a reference where the rule needs one.
    pub(super) fn check_reference(&self, updates: &Updates) -> Result<()> {
        match (self.uses_reference(), updates.has_reference()) {
            (false, true) => Err(Error::Config(format!("rule {} takes no reference", self.name()))),
            _ => Ok(()),
        }
    }

    /// Whether updates may count unequally.
    pub(super) fn uses_weights(&self) -> bool {
        matches!(
            self,
            Self::FedAvg {} | Self::MultiKrum { .. } | Self::Krum { .. } | Self::GeometricMedian { .. }
        )
    }

    /// Whether the last update is that of the server.
    pub(super) fn trusts_last(&self) -> bool {
        matches!(self, Self::FlTrust {})
    }

    /// Whether it is the plain mean.
    pub(super) fn is_mean(&self) -> bool {
        matches!(self, Self::FedAvg {})
    }

    /// Whether the rule measures updates from a reference, zero by default.
    pub(super) fn uses_reference(&self) -> bool {
        matches!(self, Self::CenteredClipping { .. } | Self::FlTrust {})
    }

    /// Whether the rule looks at the distances between updates.
    pub(super) fn needs_distances(&self) -> bool {
        !matches!(self, Self::FedAvg {} | Self::Median {} | Self::TrimmedMean { .. })
    }

    /// Decides about updates of these weights.
    pub(super) fn decide(&self, weights: &[f64], distances: Option<&Distances>) -> Result<Decision> {
        let n = weights.len();
        let total: f64 = weights.iter().sum();
        let columns = |cut| Decision {
            combination: Combination::Columns {
                rows: (0..n).collect(),
                statistic: Statistic::TrimmedMean { cut },
            },
            scores: None,
        };
        match *self {
            Self::FedAvg {} => {
                return Ok(Decision::shares(weights.iter().map(|weight| weight / total).collect()));
            }
            Self::Median {} => return Ok(columns((n - 1) / 2)),
            Self::TrimmedMean { f, beta } => {
                return Ok(columns(f.unwrap_or_else(|| (beta.unwrap_or_default() * n as f64) as usize)));
            }
            _ => {}
        }
        let distances = distances.ok_or_else(|| Error::Config(format!("{} needs distances", self.name())))?;
        Ok(match *self {
            Self::Krum { f } => krum::multi_krum(distances, weights, f, 1),
            Self::MultiKrum { f, m } => krum::multi_krum(distances, weights, f, m.unwrap_or(n - f - 2)),
            Self::Bulyan { f } => krum::bulyan(distances, f),
            Self::GeometricMedian { iterations } => geometric_median::decide(distances, weights, iterations),
            Self::CenteredClipping { tau, iterations } => {
                centered_clipping::decide(distances, tau, iterations)
            }
            Self::FlTrust {} => fltrust::decide(distances)?,
            Self::FedAvg {} | Self::Median {} | Self::TrimmedMean { .. } => unreachable!("decided above"),
        })
    }
}
