//! Ways to fine-tune a model.

use serde::{Deserialize, Serialize};

use crate::adapters::PromptKind;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Low-rank adapters on frozen weights.
    Lora,
    /// Low-rank adapters that turn the rows of frozen weights, and magnitudes that stretch them.
    Dora,
    /// Low-rank adapters whose ranks move to where they matter ([`AdaLoRA`](super::super::adalora)).
    Adalora,
    /// Embeddings before every text.
    PromptTuning,
    /// Keys and values before those of every text.
    PrefixTuning,
    /// Embeddings before every text, computed by a small network.
    PTuning,
    /// Every weight.
    Full,
}

impl Method {
    /// As settings spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::Adalora => "adalora",
            Self::PromptTuning => "prompt_tuning",
            Self::PrefixTuning => "prefix_tuning",
            Self::PTuning => "p_tuning",
            Self::Full => "full",
        }
    }
}

impl Method {
    /// The method that learns virtual tokens of this kind.
    #[must_use]
    pub fn of(kind: PromptKind) -> Self {
        match kind {
            PromptKind::PromptTuning => Self::PromptTuning,
            PromptKind::PTuning => Self::PTuning,
            PromptKind::PrefixTuning => Self::PrefixTuning,
        }
    }

    /// The kind of virtual tokens it learns, if any.
    #[must_use]
    pub fn prompt(self) -> Option<PromptKind> {
        match self {
            Self::PromptTuning => Some(PromptKind::PromptTuning),
            Self::PTuning => Some(PromptKind::PTuning),
            Self::PrefixTuning => Some(PromptKind::PrefixTuning),
            Self::Lora | Self::Dora | Self::Adalora | Self::Full => None,
        }
    }
}
