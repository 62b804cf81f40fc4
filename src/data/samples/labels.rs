//! Which tokens of a row are labels, the targets of the loss.

/// Which tokens of a row are labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// All tokens.
    All,
    /// Completions and assistant turns; prompts are masked.
    Completions,
    /// Both answers of preference pairs. Each row becomes two consecutive samples, the chosen answer first.
    PreferencePairs,
}

impl Labels {
    /// Labels of rows other than pairs; `mask_prompt` excludes prompts from the loss.
    #[must_use]
    pub const fn from_mask_prompt(mask_prompt: bool) -> Self {
        if mask_prompt { Self::Completions } else { Self::All }
    }

    /// Number of samples per row.
    #[must_use]
    pub const fn samples_per_row(self) -> usize {
        match self {
            Self::All | Self::Completions => 1,
            Self::PreferencePairs => 2,
        }
    }
}
