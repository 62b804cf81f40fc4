//! Packing: several short samples per row, to reduce padding.
//!
//! Best-fit decreasing ([Fewer Truncations Improve Language Modeling](https://arxiv.org/abs/2404.10830)): samples
//! are placed from the longest to the shortest, each into the fullest row with enough space.

use std::collections::BTreeMap;

use crate::data::samples::Sample;

/// Packs `samples` into rows of at most `max_len` tokens. Samples are never split; a longer one gets a row of its
/// own. The result depends on the arguments only.
#[must_use]
pub fn pack(samples: &[Sample], max_len: usize) -> Vec<Sample> {
    let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
    let packed = |row: &Vec<usize>| Sample::concatenate(row.iter().map(|&index| &samples[index]));
    best_fit_decreasing(&lengths, max_len).iter().map(packed).collect()
}

/// Assigns samples of the given `lengths` to rows: the indices of the samples of each row.
pub(in crate::data) fn best_fit_decreasing(lengths: &[usize], max_len: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the space they have left.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in order {
        let length = lengths[index];
        let fullest = open.range(length..).next().map(|(&space, _)| space);
        let row = fullest.and_then(|space| {
            let rows = open.get_mut(&space)?;
            let row = rows.pop();
            if rows.is_empty() {
                open.remove(&space);
            }
            row.map(|row| (row, space))
        });
        let (row, space) = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            (rows.len() - 1, max_len.max(length))
        });
        rows[row].push(index);
        open.entry(space - length).or_default().push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_goes_where_it_fits_best() {
        assert_eq!(best_fit_decreasing(&[2, 6, 5, 3, 4], 10), [vec![1, 4], vec![2, 3, 0]]);
        assert_eq!(best_fit_decreasing(&[12, 1], 10), [vec![0], vec![1]]);
        assert_eq!(best_fit_decreasing(&[], 10), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn samples_keep_their_tokens_and_know_where_they_begin() {
        let (a, b) = (Sample::new(vec![1, 2, 3], |i| i == 2), Sample::new(vec![4, 5], |_| true));
        let [row] = &pack(&[b, a], 5)[..] else { panic!("one row") };
        assert_eq!(row.ids, [1, 2, 3, 4, 5]);
        assert_eq!(row.loss_mask, [false, false, true, false, true]);
        assert_eq!(row.segment_starts, [0, 3]);
    }

    proptest! {
        #[test]
        fn every_sample_comes_once_in_few_rows(
            lengths in proptest::collection::vec(1_usize..50, 0..200),
            max_len in 50_usize..100,
        ) {
            let rows = best_fit_decreasing(&lengths, max_len);
            let sum = |row: &Vec<usize>| row.iter().map(|&index| lengths[index]).sum::<usize>();
            prop_assert!(rows.iter().all(|row| sum(row) <= max_len));
            let mut seen = rows.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            // No two rows are at most half full.
            let best = lengths.iter().sum::<usize>().div_ceil(max_len);
            prop_assert!(rows.len() <= 2 * best.max(1));
        }
    }
}
