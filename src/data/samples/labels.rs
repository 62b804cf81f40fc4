//! Which tokens of a row are learned.

/// What is learned from rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Every token.
    All,
    /// Answers, not the prompts before them.
    Completions,
    /// Which of two answers to prefer; of each row two samples come one after the other, the preferred one first.
    PreferencePairs,
}

impl Labels {
    /// From rows that are no pairs.
    #[must_use]
    pub const fn from_mask_prompt(mask_prompt: bool) -> Self {
        if mask_prompt { Self::Completions } else { Self::All }
    }

    /// Samples of one row.
    #[must_use]
    pub const fn samples_per_row(self) -> usize {
        match self {
            Self::All | Self::Completions => 1,
            Self::PreferencePairs => 2,
        }
    }
}
