//! Splitting batches to limit memory.

use super::batch::Batch;

/// Maximum number of tokens per forward pass, including padding. A row is never split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxTokens(pub(in crate::train) usize);

impl MaxTokens {
    /// No limit: batches are not split.
    pub const UNLIMITED: Self = Self(usize::MAX);

    /// Number of rows of `time` tokens per forward pass.
    #[must_use]
    pub fn rows(self, time: usize) -> usize {
        (self.0 / time.max(1)).max(1)
    }

    /// Half of the largest of `batches`; `None` if none of them can be split.
    #[must_use]
    pub fn half_of<'a, B: Batch + 'a>(batches: impl IntoIterator<Item = &'a B>) -> Option<Self> {
        let divisible = batches.into_iter().filter(|batch| batch.is_divisible());
        divisible.map(|batch| Self(batch.rows() * batch.row_length() / 2)).max_by_key(|size| size.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Batch, Sample, collate};

    #[test]
    fn passes_are_halved_down_to_single_rows() {
        let batch = |rows: usize, time: usize| {
            let sample = Sample::new(vec![1; time + 1], |_| true);
            collate(&vec![&sample; rows], 64, 0)
        };
        assert_eq!(MaxTokens::UNLIMITED.rows(64), usize::MAX / 64);
        let size = MaxTokens::half_of(&[batch(5, 10), batch(1, 60)]).unwrap();
        assert_eq!((size.rows(10), size.rows(5), size.rows(60)), (2, 5, 1));
        assert_eq!(MaxTokens::half_of::<Batch>(&[batch(1, 60), batch(1, 2)]), None);
    }
}
