//! The training examples of a split: single samples or preference pairs.

use super::batch::{Batch, Pairs, collate};
use crate::data::samples::{Labels, Sample};

/// Samples, of which one or two are an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    samples: Vec<Sample>,
    labels: Labels,
    reference: Vec<f32>,
}

impl Examples {
    /// Examples of tokenized `samples`; with preference pairs, two consecutive samples each.
    #[must_use]
    pub const fn new(samples: Vec<Sample>, labels: Labels) -> Self {
        Self { samples, labels, reference: Vec::new() }
    }

    /// Sets the log-probability of each answer under the reference model, in the order of the
    /// [samples](Self::samples).
    #[must_use]
    pub fn with_reference(self, reference: Vec<f32>) -> Self {
        Self { reference, ..self }
    }

    /// The samples of all examples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len() / self.rows_per_example()
    }

    /// Whether there are no examples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Number of batch rows per example: 2 for pairs, else 1.
    #[must_use]
    pub const fn rows_per_example(&self) -> usize {
        self.labels.samples_per_row()
    }

    /// Number of tokens of an example, for a pair of its longer answer.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        let rows = self.rows_per_example();
        self.samples[rows * index..rows * (index + 1)].iter().map(Sample::len).max().unwrap_or(0)
    }

    /// Number of tokens of each example.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).map(|index| self.length(index)).collect()
    }

    /// [Collates](collate) the examples with these indices.
    #[must_use]
    pub fn batch(&self, examples: &[usize], max_len: usize, pad_id: u32) -> Batch {
        let per_example = self.rows_per_example();
        let indices = examples.iter().flat_map(|&example| per_example * example..per_example * (example + 1));
        let samples: Vec<&Sample> = indices.clone().map(|index| &self.samples[index]).collect();
        let pairs = (self.labels == Labels::PreferencePairs).then(|| Pairs {
            lengths: samples.iter().map(|sample| sample.len().min(max_len).saturating_sub(1)).collect(),
            reference: indices.filter_map(|index| self.reference.get(index).copied()).collect(),
        });
        Batch { pairs, ..collate(&samples, max_len, pad_id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_stay_together() {
        let sample = |first: u32, len: u32| Sample::new((first..first + len).collect(), |index| index > 1);
        let samples = vec![sample(1, 4), sample(11, 3), sample(21, 3), sample(31, 5)];
        let plain = Examples::new(samples.clone(), Labels::Completions);
        assert_eq!((plain.len(), plain.lengths()), (4, vec![4, 3, 3, 5]));
        assert_eq!(plain.batch(&[3, 0], 9, 0).pairs, None);
        let pairs =
            Examples::new(samples, Labels::PreferencePairs).with_reference(vec![-1.0, -2.0, -3.0, -4.0]);
        assert_eq!((pairs.len(), pairs.lengths()), (2, vec![4, 5]));
        let batch = pairs.batch(&[1, 0], 4, 0);
        assert_eq!((batch.rows, batch.time), (4, 3));
        assert_eq!(batch.ids, [21, 22, 0, 31, 32, 33, 1, 2, 3, 11, 12, 0]);
        let expected = Pairs { lengths: vec![2, 3, 3, 2], reference: vec![-3.0, -4.0, -1.0, -2.0] };
        assert_eq!(batch.pairs, Some(expected));
    }
}
