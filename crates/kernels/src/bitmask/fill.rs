//! What stands between stored codes.

/// The code of the places that are not stored, which a number of words of the mask share.
#[derive(Clone, Copy)]
pub(crate) struct Fill<'a> {
    /// From the group on that the first word is in.
    pub codes: &'a [u8],
    /// Words of the first group before the first word.
    pub skipped: usize,
    /// Logarithm of the words of a group.
    pub shift: u32,
}

impl Fill<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always)]
    pub(crate) fn of(&self, word: usize) -> u8 {
        self.codes[(word + self.skipped) >> self.shift]
    }
}
