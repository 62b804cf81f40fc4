//! The order of samples in an epoch: shuffled, and grouped by length like the length-grouped sampler of
//! transformers, so that batches need little padding.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::rng::digest;

/// Batches per megabatch, the rows that are sorted by length together. More means less padding but a less random
/// order.
const BATCHES_PER_MEGABATCH: usize = 32;

/// The batches of an epoch, as indices into `lengths`.
///
/// Each index occurs once; only the last batch may be smaller. Rows are [shuffled](epoch_order), and each megabatch
/// is [grouped by length](length_grouped_batches). The result depends on the arguments only, so that a resumed run
/// continues with the same batches.
#[must_use]
pub fn epoch_batches(lengths: &[usize], batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let order = epoch_order(lengths.len(), seed, epoch);
    let batches = (0..).zip(order.chunks(megabatch_rows(batch_size))).flat_map(|(index, megabatch)| {
        let sizes: Vec<usize> = megabatch.iter().map(|&index| lengths[index]).collect();
        let batches = length_grouped_batches(&sizes, batch_size, seed, [epoch, index]);
        batches.into_iter().map(|batch| batch.into_iter().map(|position| megabatch[position]).collect())
    });
    batches.collect()
}

/// A permutation of `0..rows`, the order of one epoch.
pub(in crate::data) fn epoch_order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(&mut rng);
    order
}

/// Number of rows per megabatch.
pub(in crate::data) const fn megabatch_rows(batch_size: usize) -> usize {
    let size = if batch_size == 0 { 1 } else { batch_size };
    size.saturating_mul(BATCHES_PER_MEGABATCH)
}

/// The batches of megabatch `[epoch, index]`, whose rows have these `lengths`, as indices into `lengths`.
///
/// Rows are sorted by length and the full batches shuffled; only the last batch may be smaller.
pub(in crate::data) fn length_grouped_batches(
    lengths: &[usize],
    batch_size: usize,
    seed: u64,
    megabatch: [u64; 2],
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let batch_size = batch_size.max(1);
    let mut batches: Vec<Vec<usize>> = order.chunks(batch_size).map(<[usize]>::to_vec).collect();
    let full = lengths.len() / batch_size;
    let [epoch, index] = megabatch;
    batches[..full].shuffle(&mut ChaCha8Rng::seed_from_u64(digest([seed, epoch, index])));
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
