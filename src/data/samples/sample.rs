//! One training example as token ids.

/// Token ids of one row and which of them are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// `loss_mask[i]`: token `i` is a target of the loss. As long as `ids`; the first is always
    /// false, because nothing precedes it that could predict it.
    pub loss_mask: Vec<bool>,
    /// Where the samples [packed](crate::data::pack) into this one begin; empty where it is a single one.
    pub segment_starts: Vec<usize>,
}

impl Sample {
    /// Every token for which `is_target(index)` holds is learned, except the first.
    #[must_use]
    pub fn new(ids: Vec<u32>, is_target: impl Fn(usize) -> bool) -> Self {
        let loss_mask = (0..ids.len()).map(|index| index > 0 && is_target(index)).collect();
        Self { ids, loss_mask, segment_starts: Vec::new() }
    }

    /// One row of all `samples`, one after the other.
    pub(in crate::data) fn concatenate<'a>(samples: impl Iterator<Item = &'a Self>) -> Self {
        let mut row = Self::new(Vec::new(), |_| false);
        for sample in samples {
            row.segment_starts.push(row.ids.len());
            row.ids.extend(&sample.ids);
            row.loss_mask.extend(&sample.loss_mask);
        }
        row
    }

    /// Cuts the end off so that at most `max_len` tokens remain.
    pub fn truncate(&mut self, max_len: usize) {
        self.segment_starts.retain(|&begin| begin < max_len);
        self.ids.truncate(max_len);
        self.loss_mask.truncate(max_len);
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
    pub fn has_targets(&self) -> bool {
        self.loss_mask.contains(&true)
    }

    /// Tokens that are learned.
    #[must_use]
    pub fn num_targets(&self) -> usize {
        self.loss_mask.iter().filter(|&&is_target| is_target).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_never_a_target() {
        let sample = Sample::new(vec![5, 6, 7], |_| true);
        assert_eq!(sample.loss_mask, [false, true, true]);
        assert!(sample.has_targets());
        assert!(!Sample::new(vec![5], |_| true).has_targets());
        assert!(Sample::new(vec![], |_| true).is_empty());
    }

    #[test]
    fn truncation_may_leave_nothing_to_learn() {
        let mut sample = Sample::new(vec![5, 6, 7, 8], |index| index == 3);
        sample.truncate(9);
        assert!(sample.has_targets());
        sample.truncate(3);
        assert_eq!((sample.ids.as_slice(), sample.loss_mask.as_slice()), (&[5, 6, 7][..], &[false; 3][..]));
        assert!(!sample.has_targets());
        assert_eq!(sample.len(), 3);
    }
}
