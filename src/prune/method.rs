//! How the weights that go are chosen.

use serde::{Deserialize, Serialize};

/// A rule that says which weights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The smallest weights.
    Magnitude,
    /// Weights that contribute least to the output ([Wanda](https://arxiv.org/abs/2306.11695)).
    Wanda,
    /// Weights whose loss the others can make up for, which they then do
    /// ([SparseGPT](https://arxiv.org/abs/2301.00774)).
    SparseGpt,
    /// Blocks that change their inputs least ([ShortGPT](https://arxiv.org/abs/2403.03853)), or channels of small
    /// activations ([Minitron](https://arxiv.org/abs/2407.14679)).
    Activation,
    /// What changes the loss least, to first order ([Molchanov et al.](https://arxiv.org/abs/1906.10771)).
    Taylor,
    /// Random ones.
    Random,
    /// For each layer, the one of the others whose outputs on calibration text are closest to those of the original.
    Auto,
}

impl Method {
    /// Its name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Magnitude => "magnitude",
            Self::Wanda => "wanda",
            Self::SparseGpt => "sparsegpt",
            Self::Activation => "activation",
            Self::Taylor => "taylor",
            Self::Random => "random",
            Self::Auto => "auto",
        }
    }
}
