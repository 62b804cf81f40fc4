//! What a draft model has read of a text.

use super::replay::Part;
use crate::Result;
use crate::models::Model;
use crate::nn::Cache;

/// Tokens that the draft model reads at once.
const CHUNK: usize = 512;

/// What a draft model has read of a text, and proposes to follow.
#[derive(Debug, Default)]
pub(super) struct Draft {
    cache: Option<Cache>,
    /// The text, then proposals.
    pub tokens: Vec<u32>,
    /// Number of tokens in the cache.
    pub read: usize,
    /// Number of positions before the first token.
    offset: i32,
    pub proposals: Vec<u32>,
}

impl Draft {
    /// Goes back to `tokens`, without proposals.
    pub(super) fn begin(&mut self, draft: &Model, tokens: &[u32]) -> Result<()> {
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.read = self.read.min(shared).min(tokens.len() - 1);
        let is_cut = |cache: &mut Cache| cache.truncate(self.offset + self.read as i32);
        if !self.cache.as_mut().is_some_and(is_cut) {
            let cache = draft.new_cache(tokens.len() as i32)?;
            (self.offset, self.read) = (cache.positions().unwrap_or(0), 0);
            self.cache = Some(cache);
        }
        self.tokens = tokens.to_vec();
        self.proposals.clear();
        Ok(())
    }

    /// The next tokens to read.
    pub(super) fn part(&mut self, draft: &Model, id: u64) -> Option<Part<'_>> {
        let end = self.tokens.len().min(self.read + CHUNK);
        let length = end as i32;
        Some(Part {
            id,
            adapter: None,
            cache: self.cache.as_mut()?,
            tokens: &self.tokens[self.read..end],
            wanted: usize::from(end == self.tokens.len()),
            is_steady: draft.rotation_variant(length) == draft.rotation_variant(length - 1),
        })
    }
}
