//! Collates samples into padded batches.

use crate::data::samples::Sample;

/// Inputs and next-token targets, row-major `[rows, time]`, padded on the right.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Input token ids: all tokens of a row except the last, `[rows, time]`.
    pub ids: Vec<i32>,
    /// Target token ids: all tokens of a row except the first, `[rows, time]`.
    pub targets: Vec<i32>,
    /// Loss weights: 1 for targets, 0 for padding and masked prompts, `[rows, time]`.
    pub weights: Vec<f32>,
    /// Attention segments of packed rows: for each column the column at which its sample starts, `[rows, time]`;
    /// `None` if no row is packed.
    pub starts: Option<Vec<i32>>,
    /// Number of rows.
    pub rows: usize,
    /// Number of tokens per row, padding included.
    pub time: usize,
    /// Number of `ids` that are neither padding nor the last token of a sample.
    pub tokens: usize,
    /// Set if the rows are preference pairs.
    pub pairs: Option<Pairs>,
}

impl Batch {
    /// Pads `time` to a multiple of `multiple`. In packed batches the padding is a segment of its own.
    #[must_use]
    pub fn pad_to_multiple_of(&self, multiple: usize, pad_id: u32) -> Self {
        let time = self.time.next_multiple_of(multiple.max(1));
        Self {
            ids: pad_rows(&self.ids, self.time, time, pad_id as i32),
            targets: pad_rows(&self.targets, self.time, time, pad_id as i32),
            weights: pad_rows(&self.weights, self.time, time, 0.0),
            starts: self.starts.as_ref().map(|starts| pad_rows(starts, self.time, time, self.time as i32)),
            time,
            pairs: self.pairs.clone(),
            ..*self
        }
    }

    /// Whether the batch can be split, which keeps the rows of a pair together.
    #[must_use]
    pub const fn is_divisible(&self) -> bool {
        self.rows > if self.pairs.is_some() { 2 } else { 1 }
    }
}

/// Preference pairs: rows `2i` and `2i + 1` of a batch are the chosen and the rejected answer to one prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    /// Number of columns per row that are not padding, `[rows]`.
    pub lengths: Vec<usize>,
    /// Log-probability of each answer under the reference model, `[rows]`; empty if the loss does not use it.
    pub reference: Vec<f32>,
}

/// Pads rows of `old` columns to `new` columns with `value`.
fn pad_rows<T: Copy>(rows: &[T], old: usize, new: usize, value: T) -> Vec<T> {
    let padding = std::iter::repeat_n(value, new - old);
    rows.chunks(old.max(1)).flat_map(|row| row.iter().copied().chain(padding.clone())).collect()
}

/// Truncates `samples` to `max_len` tokens and pads them with `pad_id` to the length of the longest.
///
/// A sample of n tokens fills n − 1 columns: column t holds token t and has token t + 1 as target.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "MLX indexes with i32; no vocabulary has 2³¹ entries")]
pub fn collate(samples: &[&Sample], max_len: usize, pad_id: u32) -> Batch {
    let columns = |sample: &Sample| sample.len().min(max_len).saturating_sub(1);
    let rows = samples.len();
    let time = samples.iter().map(|sample| columns(sample)).max().unwrap_or(0);
    let size = rows * time;
    let mut batch = Batch {
        ids: Vec::with_capacity(size),
        targets: Vec::with_capacity(size),
        weights: Vec::with_capacity(size),
        starts: samples
            .iter()
            .any(|sample| !sample.segment_starts.is_empty())
            .then(|| Vec::with_capacity(size)),
        rows,
        time,
        tokens: 0,
        pairs: None,
    };
    for (row, sample) in samples.iter().enumerate() {
        let filled = columns(sample);
        let shifted = 1..=filled;
        if filled > 0 {
            batch.ids.extend(sample.ids[..filled].iter().map(|&id| id as i32));
            batch.targets.extend(sample.ids[shifted.clone()].iter().map(|&id| id as i32));
            batch.weights.extend(sample.loss_mask[shifted].iter().map(|&is_trained| f32::from(is_trained)));
        }
        let end = (row + 1) * time;
        batch.ids.resize(end, pad_id as i32);
        batch.targets.resize(end, pad_id as i32);
        batch.weights.resize(end, 0.0);
        let segment_starts = sample.segment_starts.iter().copied().filter(|&begin| begin < filled);
        if let Some(starts) = &mut batch.starts {
            starts.resize(row * time + filled, 0);
            for begin in segment_starts.clone() {
                starts[row * time + begin..].fill(begin as i32);
            }
            // Padding is a segment of its own.
            starts.resize(end, filled as i32);
        }
        // The last token of a sample has no target.
        batch.tokens += filled - segment_starts.count().saturating_sub(1);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shifted_padded_and_weighted() {
        let long = Sample::new(vec![1, 2, 3, 4], |index| index >= 2);
        let short = Sample::new(vec![7, 8], |_| true);
        let batch = collate(&[&long, &short], 10, 9);
        assert_eq!((batch.rows, batch.time, batch.tokens), (2, 3, 4));
        assert_eq!(batch.ids, [1, 2, 3, 7, 9, 9]);
        assert_eq!(batch.targets, [2, 3, 4, 8, 9, 9]);
        assert_eq!(batch.weights, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn packed_rows_know_where_samples_begin() {
        let samples = [Sample::new(vec![1, 2, 3], |_| true), Sample::new(vec![4, 5], |_| true)];
        let packed = Sample::concatenate(samples.iter());
        let batch = collate(&[&packed, &samples[1], &packed], 10, 9);
        assert_eq!(batch.ids, [1, 2, 3, 4, 4, 9, 9, 9, 1, 2, 3, 4]);
        assert_eq!(batch.weights, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
        assert_eq!(batch.starts, Some(vec![0, 0, 0, 3, 0, 1, 1, 1, 0, 0, 0, 3]));
        assert_eq!(batch.tokens, 3 + 1 + 3);
        assert_eq!(collate(&[&samples[0]], 10, 9).starts, None);
    }

    #[test]
    fn padding_makes_shapes_alike() {
        let samples = [Sample::new(vec![1, 2, 3], |_| true), Sample::new(vec![4, 5], |_| true)];
        let packed = Sample::concatenate(samples.iter());
        let batch = collate(&[&packed, &samples[1]], 10, 9);
        let wide = batch.pad_to_multiple_of(6, 9);
        assert_eq!((wide.rows, wide.time, wide.tokens), (2, 6, batch.tokens));
        assert_eq!(wide.ids, [1, 2, 3, 4, 9, 9, 4, 9, 9, 9, 9, 9]);
        assert_eq!(wide.weights, [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(wide.starts, Some(vec![0, 0, 0, 3, 4, 4, 0, 1, 1, 1, 4, 4]));
        assert_eq!(batch.pad_to_multiple_of(4, 9), batch);
        assert_eq!(collate(&[], 8, 9).pad_to_multiple_of(4, 9).time, 0);
    }

    #[test]
    fn rows_are_cut_to_the_limit() {
        let sample = Sample::new(vec![1, 2, 3, 4], |_| true);
        let batch = collate(&[&sample], 3, 0);
        assert_eq!((batch.ids, batch.targets, batch.time), (vec![1, 2], vec![2, 3], 2));
    }

    #[test]
    fn rows_too_short_to_predict_anything_are_all_padding() {
        let (one, none) = (Sample::new(vec![5], |_| true), Sample::new(vec![], |_| true));
        let pair = Sample::new(vec![1, 2], |_| true);
        let batch = collate(&[&one, &none, &pair], 8, 9);
        assert_eq!(batch.ids, [9, 9, 1]);
        assert_eq!(batch.weights, [0.0, 0.0, 1.0]);
        assert_eq!(batch.tokens, 1);
        assert_eq!(collate(&[&pair], 0, 9).time, 0);
        assert_eq!(collate(&[], 8, 9).ids, [0; 0]);
    }
}
