//! Information content of texts: entropy of the token frequencies, and compressibility.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::data::samples::Sample;
use crate::data::text::Tokenizer;
use crate::{Error, Result};

/// Compression level, the highest that takes negligible time.
const ZSTD_LEVEL: i32 = 9;

/// Number of distinct tokens, and the entropy of their frequencies, `-Σ p log₂ p`, in bits per token.
pub(super) fn token_entropy(samples: &[Sample]) -> (usize, f64) {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    samples.iter().flat_map(|sample| &sample.ids).for_each(|&id| *counts.entry(id).or_default() += 1);
    let total: usize = counts.values().sum();
    let bits = |&count: &usize| {
        let share = count as f64 / total as f64;
        -share * share.log2()
    };
    (counts.len(), counts.values().map(bits).sum())
}

/// Size of all texts in bytes, before and after compression.
///
/// # Errors
/// [`Error::ModelLoading`] if the tokenizer cannot decode the ids.
pub(super) fn compressed_size(samples: &[Sample], tokenizer: &Tokenizer) -> Result<(usize, usize)> {
    let decode = |sample: &Sample| tokenizer.decode(&sample.ids, true);
    let text = samples.par_iter().map(decode).collect::<Result<Vec<_>>>()?.join("\n");
    let compressed = zstd::bulk::compress(text.as_bytes(), ZSTD_LEVEL)
        .map_err(|error| Error::Dataset(format!("the texts cannot be compressed: {error}")))?;
    Ok((text.len(), compressed.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixture;

    fn sample(text: &str) -> Sample {
        Sample::new(text.bytes().map(u32::from).collect(), |_| true)
    }

    #[test]
    fn entropy_is_that_of_the_frequencies() {
        assert_eq!(token_entropy(&[sample("abcd"), sample("bcda")]), (4, 2.0));
        let (different, bits) = token_entropy(&[sample("aaab")]);
        assert!(different == 2 && (bits - 0.811_278_124_459).abs() < 1e-9, "{bits}");
    }

    #[test]
    fn repetitions_take_little() {
        let tokenizer = fixture::tokenizer(None);
        let bytes = |row: &dyn Fn(u32) -> u32| {
            let samples: Vec<Sample> = (0..200)
                .map(|i| Sample::new((0..50).map(|j| 97 + row(50 * i + j) % 26).collect(), |_| true))
                .collect();
            compressed_size(&samples, &tokenizer).unwrap()
        };
        let (plain, repeated) = bytes(&|i| i % 50);
        let (_, mixed) = bytes(&|i| i.wrapping_mul(2_654_435_761) >> 13);
        assert_eq!(plain, 200 * 51 - 1);
        assert!(20 * repeated < mixed && mixed < plain, "{repeated} {mixed}");
    }
}
