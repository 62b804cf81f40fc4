//! Megabatches beside rows in memory.

use std::fs;
use std::ops::Range;

use super::*;
use crate::data::{Columns, Labels, epoch_batches, fixture, read_splits, stream_splits, tokenize};
use crate::progress::Silent;

const SEED: u64 = 5;

/// What learning from 150 rows of various lengths looks like, once whole and once from the disk.
fn with_rows(packing: bool, test: impl Fn(&[Sample], &StreamingDataset)) {
    let folder = tempfile::tempdir().unwrap();
    let line = |number: usize| format!("{{\"text\":\"{number}{}\"}}\n\n", "-".repeat(number * 7 % 23));
    fs::write(folder.path().join("train.jsonl"), (0..150).map(line).collect::<String>()).unwrap();
    fs::write(folder.path().join("valid.jsonl"), line(0)).unwrap();
    let (data, columns) = (folder.path().to_str().unwrap(), Columns::default());
    let tokenizer = fixture::tokenizer(None);
    let whole = read_splits(data, &columns, SEED).unwrap().train;
    let whole = tokenize(&whole, &tokenizer, Labels::All, 32).unwrap().samples;
    let (rows, rest) = stream_splits(data, &columns, SEED, &mut Silent).unwrap();
    assert_eq!((rows.len(), rest.train.len(), rest.valid.len()), (150, 0, 1));
    test(&whole, &StreamingDataset::new(rows, &tokenizer, Labels::All, 32, packing));
}

/// Token ids of the batches of these numbers.
fn batches(dataset: &StreamingDataset, size: usize, numbers: Range<u64>) -> Vec<Vec<Vec<u32>>> {
    let mut found = Vec::new();
    for megabatch in Megabatches::new(dataset, size, SEED, numbers.start) {
        let megabatch = megabatch.unwrap();
        for (number, batch) in (megabatch.first..).zip(&megabatch.batches) {
            let ids = |&index: &usize| megabatch.examples.samples()[index].ids.clone();
            if numbers.contains(&number) {
                found.push(batch.iter().map(ids).collect());
            }
        }
        if megabatch.end() >= numbers.end {
            break;
        }
    }
    found
}

#[test]
fn batches_are_those_of_rows_in_memory_from_any_number_on() {
    with_rows(false, |whole, dataset| {
        let lengths: Vec<usize> = whole.iter().map(Sample::len).collect();
        for size in [1, 2, 7, 200] {
            let epochs = (0..3).flat_map(|epoch| epoch_batches(&lengths, size, SEED, epoch));
            let expected: Vec<Vec<Vec<u32>>> =
                epochs.map(|batch| batch.iter().map(|&index| whole[index].ids.clone()).collect()).collect();
            let count = expected.len();
            for first in [0, 1, count / 2, count - 1] {
                let found = batches(dataset, size, first as u64..count as u64);
                assert_eq!(found, expected[first..], "batches of {size} from {first}");
            }
        }
        assert_eq!((dataset.truncated_rows(), dataset.dropped_rows()), (0, 0));
    });
}

#[test]
fn packed_windows_hold_every_row_once_an_epoch() {
    with_rows(true, |whole, dataset| {
        let mut expected: Vec<Vec<u32>> = whole.iter().map(|sample| sample.ids.clone()).collect();
        expected.sort();
        for size in [1, 4, 64] {
            let mut megabatches = Megabatches::new(dataset, size, SEED, 0);
            let (mut found, mut epoch) = (Vec::new(), 0.0);
            while epoch < 1.0 {
                let megabatch = megabatches.next().unwrap().unwrap();
                for sample in megabatch.examples.samples() {
                    let end = sample.ids.len();
                    let ends = sample.segment_starts.iter().skip(1).chain([&end]);
                    let texts =
                        sample.segment_starts.iter().zip(ends).map(|(&a, &b)| sample.ids[a..b].to_vec());
                    found.extend(texts);
                }
                assert!(megabatch.batches.iter().rev().skip(1).all(|batch| batch.len() == size));
                [_, epoch] = megabatch.epochs;
            }
            found.sort();
            assert_eq!(found, expected);
        }
    });
}

#[test]
fn what_does_not_fill_a_batch_waits_for_the_next_window() {
    with_rows(true, |whole, dataset| {
        let mut megabatches = Megabatches::new(dataset, 4, SEED, 0);
        megabatches.size = 40;
        let (mut tokens, mut lasts) = (0, Vec::new());
        for megabatch in megabatches.by_ref().take(4).map(|megabatch| megabatch.unwrap()) {
            lasts.push(megabatch.batches.last().unwrap().len());
            tokens += megabatch.examples.samples().iter().map(Sample::len).sum::<usize>();
        }
        assert_eq!(lasts[..3], [4, 4, 4]);
        assert_eq!(tokens, whole.iter().map(Sample::len).sum::<usize>());
        assert!(megabatches.leftover.is_empty());
    });
}
