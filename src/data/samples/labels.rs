//! Which tokens of a row are learned.

/// What is learned from rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Every token.
    Everything,
    /// Answers, not the prompts before them.
    Answers,
    /// Which of two answers to prefer; of each row two samples come one after the other, the preferred one first.
    Preferences,
}

impl Learned {
    /// From rows that are no pairs.
    #[must_use]
    pub const fn from_text(mask_prompt: bool) -> Self {
        if mask_prompt { Self::Answers } else { Self::Everything }
    }

    /// Samples of one row.
    #[must_use]
    pub const fn samples_per_row(self) -> usize {
        match self {
            Self::Everything | Self::Answers => 1,
            Self::Preferences => 2,
        }
    }
}
