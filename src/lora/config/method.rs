//! Fine-tuning methods.

use serde::{Deserialize, Serialize};

use crate::adapters::PromptKind;

/// Fine-tuning method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `LoRA`: low-rank adapters on frozen weights.
    Lora,
    /// `DoRA`: low-rank adapters for the direction of frozen weights, and trainable magnitudes.
    Dora,
    /// Low-rank adapters with adaptive ranks ([`AdaLoRA`](super::super::adalora)).
    Adalora,
    /// Trainable embeddings before every text.
    PromptTuning,
    /// Trainable keys and values before those of every text.
    PrefixTuning,
    /// Trainable embeddings before every text, computed by a small network.
    PTuning,
    /// Full fine-tuning.
    Full,
}

impl Method {
    /// Returns the name used in settings.
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
    /// Returns the method that trains virtual tokens of this kind.
    #[must_use]
    pub fn of(kind: PromptKind) -> Self {
        match kind {
            PromptKind::PromptTuning => Self::PromptTuning,
            PromptKind::PTuning => Self::PTuning,
            PromptKind::PrefixTuning => Self::PrefixTuning,
        }
    }

    /// Returns the kind of virtual tokens that this method trains, if any.
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
