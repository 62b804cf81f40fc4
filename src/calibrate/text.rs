//! Calibration text as token sequences of equal length.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::data::{Columns, Labels, Tokenizer, read_splits, tokenize};
use crate::models::check_tokens;
use crate::rng::{Purpose, digest};
use crate::{Error, Result};

/// Rows that are tokenized before their tokens are counted.
const ROWS_AT_ONCE: usize = 256;

/// Which text, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct CalibrationText<'a> {
    /// File or folder of data in any format that training reads; of a folder, the training split.
    pub data: &'a str,
    /// Maximum number of sequences.
    pub sequences: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Seed of the order of rows.
    pub seed: u64,
}

impl CalibrationText<'_> {
    /// Tokenizes rows in random order, as training would, and cuts their concatenation into sequences.
    ///
    /// # Errors
    /// Data that cannot be read; fewer tokens than one sequence; a token that is not below `vocab`.
    pub fn read(&self, tokenizer: &Tokenizer, vocab: i32) -> Result<Vec<Vec<u32>>> {
        let &Self { data, sequences, length, seed } = self;
        let mut rows = read_splits(data, &Columns::default(), seed)?.train;
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(digest([seed, Purpose::Calibration as u64])));
        let mut tokens: Vec<u32> = Vec::new();
        for rows in rows.chunks(ROWS_AT_ONCE) {
            if tokens.len() >= sequences.saturating_mul(length) {
                break;
            }
            let split = tokenize(rows, tokenizer, Labels::from_mask_prompt(false), usize::MAX)?;
            tokens.extend(split.samples.iter().flat_map(|sample| &sample.ids));
        }
        if tokens.len() < length {
            return Err(Error::Dataset(format!(
                "{data} has {} tokens, too few for one calibration sequence of {length} (sequence_length)",
                tokens.len()
            )));
        }
        check_tokens(&tokens, vocab)?;
        let found: Vec<Vec<u32>> = tokens.chunks_exact(length).take(sequences).map(<[u32]>::to_vec).collect();
        if found.len() < sequences {
            log::warn!("{data}: calibration on {} sequences of {length} tokens, all there are", found.len());
        }
        Ok(found)
    }
}
