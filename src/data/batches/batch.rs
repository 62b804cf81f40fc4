//! Samples side by side: which go together, and the padded arrays the loss works on.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::data::samples::Sample;
use crate::rng::digest;

/// Batches whose rows are sorted by length together; more is less padding but less chance.
const WINDOW: usize = 32;

/// Inputs and next-token targets, row-major `[rows, time]`, padded at the right.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Tokens the model reads: all of a row but its last.
    pub ids: Vec<i32>,
    /// Tokens it shall predict: all of a row but its first.
    pub targets: Vec<i32>,
    /// 1 where the target is learned, 0 on padding and masked prompts.
    pub weights: Vec<f32>,
    /// The column where the sample of each column begins, where rows hold several samples; else `None`.
    pub starts: Option<Vec<i32>>,
    /// Rows in the batch.
    pub rows: usize,
    /// Tokens per row, padding included.
    pub time: usize,
    /// Tokens in `ids` that are not padding and have a successor.
    pub tokens: usize,
    /// What is known of the rows where they are pairs.
    pub pairs: Option<Pairs>,
}

impl Batch {
    /// The same with columns of padding up to a multiple of `columns`, a text of their own where rows hold several.
    #[must_use]
    pub fn padded(&self, columns: usize, pad: u32) -> Self {
        let time = self.time.next_multiple_of(columns.max(1));
        Self {
            ids: wider(&self.ids, self.time, time, pad as i32),
            targets: wider(&self.targets, self.time, time, pad as i32),
            weights: wider(&self.weights, self.time, time, 0.0),
            starts: self.starts.as_ref().map(|starts| wider(starts, self.time, time, self.time as i32)),
            time,
            pairs: self.pairs.clone(),
            ..*self
        }
    }

    /// Whether more than one row, or pair of rows, could do without the others.
    #[must_use]
    pub const fn is_divisible(&self) -> bool {
        self.rows > if self.pairs.is_some() { 2 } else { 1 }
    }
}

/// Rows `2i` and `2i + 1` of a batch are the preferred and the other answer to one prompt and cannot do without each
/// other. Both lists are by row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    /// Columns that are not padding.
    pub lengths: Vec<usize>,
    /// Log-probability of the answer before the training; empty where nothing asks for it.
    pub reference: Vec<f32>,
}

/// Rows of `old` columns with `new`, the later ones filled with `value`.
fn wider<T: Copy>(rows: &[T], old: usize, new: usize, value: T) -> Vec<T> {
    let filling = std::iter::repeat_n(value, new - old);
    rows.chunks(old.max(1)).flat_map(|row| row.iter().copied().chain(filling.clone())).collect()
}

/// Pads `samples` with `pad` to the longest of them, each cut to `max_len` tokens first.
///
/// A row of n tokens fills n − 1 columns: column t reads token t and predicts token t + 1.
#[must_use]
#[expect(clippy::cast_possible_wrap, reason = "MLX indexes with i32; no vocabulary has 2³¹ entries")]
pub fn collate(samples: &[&Sample], max_len: usize, pad: u32) -> Batch {
    let columns = |sample: &Sample| sample.len().min(max_len).saturating_sub(1);
    let rows = samples.len();
    let time = samples.iter().map(|sample| columns(sample)).max().unwrap_or(0);
    let size = rows * time;
    let mut batch = Batch {
        ids: Vec::with_capacity(size),
        targets: Vec::with_capacity(size),
        weights: Vec::with_capacity(size),
        starts: samples.iter().any(|sample| !sample.begins.is_empty()).then(|| Vec::with_capacity(size)),
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
            batch.weights.extend(sample.trained[shifted].iter().map(|&is_trained| f32::from(is_trained)));
        }
        let end = (row + 1) * time;
        batch.ids.resize(end, pad as i32);
        batch.targets.resize(end, pad as i32);
        batch.weights.resize(end, 0.0);
        let begins = sample.begins.iter().copied().filter(|&begin| begin < filled);
        if let Some(starts) = &mut batch.starts {
            starts.resize(row * time + filled, 0);
            for begin in begins.clone() {
                starts[row * time + begin..].fill(begin as i32);
            }
            // Padding is a text of its own.
            starts.resize(end, filled as i32);
        }
        // What stands last in a sample predicts nothing.
        batch.tokens += filled - begins.count().saturating_sub(1);
    }
    batch
}

/// The order of one pass over the data: indices into `lengths`, grouped into batches.
///
/// Every index comes once; only the last batch may be short. Rows are [shuffled](epoch_order), and
/// [each window](window_batches) becomes batches. The result depends on the arguments alone, so a resumed run finds its
/// place.
#[must_use]
pub fn epoch_batches(lengths: &[usize], batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let order = epoch_order(lengths.len(), seed, epoch);
    let batches = (0..).zip(order.chunks(window_rows(batch_size))).flat_map(|(number, window)| {
        let sizes: Vec<usize> = window.iter().map(|&index| lengths[index]).collect();
        let batches = window_batches(&sizes, batch_size, seed, [epoch, number]);
        batches.into_iter().map(|batch| batch.into_iter().map(|place| window[place]).collect())
    });
    batches.collect()
}

/// So many rows in the order of one pass over them.
pub(in crate::data) fn epoch_order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut rng);
    order
}

/// Rows that are put into batches together.
pub(in crate::data) const fn window_rows(batch_size: usize) -> usize {
    let size = if batch_size == 0 { 1 } else { batch_size };
    size.saturating_mul(WINDOW)
}

/// The batches of the window that `[epoch, number]` names, of rows of these lengths: indices into `lengths`.
///
/// Rows are sorted by length, so that a batch needs little padding, and full batches are shuffled; only the last one may
/// be short.
pub(in crate::data) fn window_batches(
    lengths: &[usize],
    batch_size: usize,
    seed: u64,
    window: [u64; 2],
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let batch_size = batch_size.max(1);
    let mut batches: Vec<Vec<usize>> = order.chunks(batch_size).map(<[usize]>::to_vec).collect();
    let full = lengths.len() / batch_size;
    let [epoch, number] = window;
    batches[..full].shuffle(&mut ChaCha8Rng::seed_from_u64(digest([seed, epoch, number])));
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        let packed = Sample::joined(samples.iter());
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
        let packed = Sample::joined(samples.iter());
        let batch = collate(&[&packed, &samples[1]], 10, 9);
        let wide = batch.padded(6, 9);
        assert_eq!((wide.rows, wide.time, wide.tokens), (2, 6, batch.tokens));
        assert_eq!(wide.ids, [1, 2, 3, 4, 9, 9, 4, 9, 9, 9, 9, 9]);
        assert_eq!(wide.weights, [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(wide.starts, Some(vec![0, 0, 0, 3, 4, 4, 0, 1, 1, 1, 4, 4]));
        assert_eq!(batch.padded(4, 9), batch);
        assert_eq!(collate(&[], 8, 9).padded(4, 9).time, 0);
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

    #[test]
    fn an_epoch_is_a_pure_function_of_seed_and_epoch() {
        let lengths: Vec<_> = (0..50).map(|i| i * 7 % 13).collect();
        let first = epoch_batches(&lengths, 4, 1, 0);
        assert_eq!(first, epoch_batches(&lengths, 4, 1, 0));
        assert_ne!(first, epoch_batches(&lengths, 4, 1, 1));
        assert_ne!(first, epoch_batches(&lengths, 4, 2, 0));
    }

    #[test]
    fn the_order_does_not_change_between_versions() {
        // A resumed run relies on this order; if it changes, old checkpoints do not resume exactly.
        let batches = epoch_batches(&[3, 1, 4, 1, 5, 9, 2, 6, 5], 2, 7, 3);
        assert_eq!(batches, [vec![8, 7], vec![2, 4], vec![3, 1], vec![6, 0], vec![5]]);
    }

    #[test]
    fn batches_hold_rows_of_similar_length() {
        let lengths: Vec<_> = (0..4096).map(|i| 1 + (i * 2_654_435_761_usize) % 1000).collect();
        let padded = |batch: &Vec<usize>| {
            let longest = batch.iter().map(|&i| lengths[i]).max().unwrap_or(0);
            batch.iter().map(|&i| longest - lengths[i]).sum::<usize>()
        };
        let padding: usize = epoch_batches(&lengths, 8, 0, 0).iter().map(padded).sum();
        let tokens: usize = lengths.iter().sum();
        // 32 batches share lengths up to 1000: half of 1000 / 32 is missing to a mean of 500.
        assert!(padding * 30 < tokens, "{padding} of {tokens} tokens are padding");
    }

    #[test]
    fn batches_are_not_ordered_by_length() {
        let lengths: Vec<_> = (0..256).collect();
        let first_rows: Vec<_> = epoch_batches(&lengths, 8, 0, 0).iter().map(|batch| batch[0]).collect();
        assert!(!first_rows.is_sorted());
    }

    proptest! {
        #[test]
        fn every_row_comes_once_and_only_the_last_batch_is_short(
            lengths in proptest::collection::vec(0_usize..50, 0..300),
            size in 0_usize..20,
            seed: u64,
            epoch: u64,
        ) {
            let batches = epoch_batches(&lengths, size, seed, epoch);
            let full = batches.len().saturating_sub(1);
            prop_assert!(batches[..full].iter().all(|batch| batch.len() == size.max(1)));
            prop_assert!(batches.iter().all(|batch| !batch.is_empty()));
            let mut seen: Vec<_> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
