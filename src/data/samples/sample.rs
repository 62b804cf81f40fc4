//! A tokenized training example.

/// Token ids and their loss mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether token `i` is a target of the loss, `[ids.len()]`. Always false for the first token, which nothing
    /// predicts.
    pub loss_mask: Vec<bool>,
    /// Index of the first token of each [packed](crate::data::pack) sample; empty if not packed.
    pub segment_starts: Vec<usize>,
    /// Number of turns of the assistant that its chat template leaves out of what is learned.
    pub unmarked_turns: usize,
}

impl Sample {
    /// A sample whose loss mask is `is_target(index)`, except for the first token.
    #[must_use]
    pub fn new(ids: Vec<u32>, is_target: impl Fn(usize) -> bool) -> Self {
        let loss_mask = (0..ids.len()).map(|index| index > 0 && is_target(index)).collect();
        Self { ids, loss_mask, segment_starts: Vec::new(), unmarked_turns: 0 }
    }

    /// Concatenates `samples` into one packed sample.
    pub(in crate::data) fn concatenate<'a>(samples: impl Iterator<Item = &'a Self>) -> Self {
        let mut row = Self::new(Vec::new(), |_| false);
        for sample in samples {
            row.segment_starts.push(row.ids.len());
            row.ids.extend(&sample.ids);
            row.loss_mask.extend(&sample.loss_mask);
        }
        row
    }

    /// Truncates to at most `max_len` tokens, at the end.
    pub fn truncate(&mut self, max_len: usize) {
        self.segment_starts.retain(|&begin| begin < max_len);
        self.ids.truncate(max_len);
        self.loss_mask.truncate(max_len);
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether any token is a target of the loss.
    #[must_use]
    pub fn has_targets(&self) -> bool {
        self.loss_mask.contains(&true)
    }

    /// Number of tokens that are targets of the loss.
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
