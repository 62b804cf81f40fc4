//! One training example as token ids.

/// Token ids of one row and which of them are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// `trained[i]`: token `i` is a target of the loss. As long as `ids`; the first is always
    /// false, because nothing precedes it that could predict it.
    pub trained: Vec<bool>,
    /// Where the samples [packed](crate::data::pack) into this one begin; empty where it is a single one.
    pub begins: Vec<usize>,
}

impl Sample {
    /// Every token for which `is_trained(index)` holds is learned, except the first.
    #[must_use]
    pub fn new(ids: Vec<u32>, is_trained: impl Fn(usize) -> bool) -> Self {
        let trained = (0..ids.len()).map(|index| index > 0 && is_trained(index)).collect();
        Self { ids, trained, begins: Vec::new() }
    }

    /// One row of all `samples`, one after the other.
    pub(in crate::data) fn joined<'a>(samples: impl Iterator<Item = &'a Self>) -> Self {
        let mut row = Self::new(Vec::new(), |_| false);
        for sample in samples {
            row.begins.push(row.ids.len());
            row.ids.extend(&sample.ids);
            row.trained.extend(&sample.trained);
        }
        row
    }

    /// Cuts the end off so that at most `max_len` tokens remain.
    pub fn truncate(&mut self, max_len: usize) {
        self.begins.retain(|&begin| begin < max_len);
        self.ids.truncate(max_len);
        self.trained.truncate(max_len);
    }

    /// Tokens in this example.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the loss has at least one target here.
    #[must_use]
    pub fn teaches(&self) -> bool {
        self.trained.contains(&true)
    }

    /// Tokens that are learned.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|&&trained| trained).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_never_a_target() {
        let sample = Sample::new(vec![5, 6, 7], |_| true);
        assert_eq!(sample.trained, [false, true, true]);
        assert!(sample.teaches());
        assert!(!Sample::new(vec![5], |_| true).teaches());
        assert!(Sample::new(vec![], |_| true).is_empty());
    }

    #[test]
    fn truncation_may_leave_nothing_to_learn() {
        let mut sample = Sample::new(vec![5, 6, 7, 8], |index| index == 3);
        sample.truncate(9);
        assert!(sample.teaches());
        sample.truncate(3);
        assert_eq!((sample.ids.as_slice(), sample.trained.as_slice()), (&[5, 6, 7][..], &[false; 3][..]));
        assert!(!sample.teaches());
        assert_eq!(sample.len(), 3);
    }
}
