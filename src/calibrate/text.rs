//! Calibration text as token sequences of equal length.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::row_embeddings::embed_rows;
use crate::data::{Columns, Labels, Tokenizer, facility_location, read_splits, tokenize};
use crate::models::{Model, check_tokens};
use crate::progress::Observer;
use crate::rng::{Purpose, digest};
use crate::{Error, Result};

/// Rows that are tokenized before their tokens are counted.
const ROWS_AT_ONCE: usize = 256;
/// How many times as many tokens a choice is made from as are needed: to embed more would take longer than to calibrate.
const CANDIDATES: usize = 8;

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
        let rows = self.rows(tokenizer, self.budget())?;
        self.cut(&rows.concat(), vocab)
    }

    /// As [`read`](Self::read), of rows that [stand for](facility_location) eight times as much text. Those longer than
    /// a sequence are chosen in parts.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and of [`embed_rows`].
    pub fn choose(
        &self,
        tokenizer: &Tokenizer,
        model: &Model,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Vec<u32>>> {
        let rows = self.rows(tokenizer, self.budget().saturating_mul(CANDIDATES))?;
        let parts: Vec<&[u32]> = rows.iter().flat_map(|row| row.chunks(self.length)).collect();
        let embeddings = embed_rows(model, &parts, observer)?;
        let mut tokens = Vec::new();
        for part in facility_location(&embeddings, parts.len(), self.seed)? {
            if tokens.len() >= self.budget() {
                break;
            }
            tokens.extend_from_slice(parts[part]);
        }
        self.cut(&tokens, model.vocab_size())
    }

    fn budget(&self) -> usize {
        self.sequences.saturating_mul(self.length)
    }

    /// Rows in random order, until they have as many `tokens`.
    fn rows(&self, tokenizer: &Tokenizer, tokens: usize) -> Result<Vec<Vec<u32>>> {
        let &Self { data, seed, .. } = self;
        let mut rows = read_splits(data, &Columns::default(), seed)?.train;
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(digest([seed, Purpose::Calibration as u64])));
        let (mut found, mut count) = (Vec::new(), 0);
        for rows in rows.chunks(ROWS_AT_ONCE) {
            if count >= tokens {
                break;
            }
            let split = tokenize(rows, tokenizer, Labels::from_mask_prompt(false), usize::MAX)?;
            count += split.samples.iter().map(|sample| sample.ids.len()).sum::<usize>();
            found.extend(split.samples.into_iter().map(|sample| sample.ids));
        }
        Ok(found)
    }

    fn cut(&self, tokens: &[u32], vocab: i32) -> Result<Vec<Vec<u32>>> {
        let &Self { data, sequences, length, .. } = self;
        if tokens.len() < length {
            return Err(Error::Dataset(format!(
                "{data} has {} tokens, too few for one calibration sequence of {length} (sequence_length)",
                tokens.len()
            )));
        }
        check_tokens(tokens, vocab)?;
        let found: Vec<Vec<u32>> = tokens.chunks_exact(length).take(sequences).map(<[u32]>::to_vec).collect();
        if found.len() < sequences {
            log::warn!("{data}: calibration on {} sequences of {length} tokens, all there are", found.len());
        }
        Ok(found)
    }
}
