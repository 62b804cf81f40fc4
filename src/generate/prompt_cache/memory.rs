//! States in memory.

use super::StateKind;
use crate::nn::Cache;

/// States by tokens, the least recently used first. What they take is bounded.
#[derive(Debug, Default)]
pub struct MemoryCache {
    entries: Vec<Entry>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    tokens: Vec<u32>,
    kind: StateKind,
    cache: Cache,
    bytes: usize,
}

impl MemoryCache {
    /// An empty cache of at most `max_bytes` bytes.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { entries: Vec::new(), max_bytes }
    }

    /// Returns the state after the longest known beginning of `tokens`, with the number of its tokens. `offset` is
    /// the number of positions before the first token: a soft prompt.
    pub fn find(&mut self, tokens: &[u32], kind: &StateKind, offset: i32) -> Option<(Cache, usize)> {
        let shared = |entry: &Entry| entry.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let mut candidates: Vec<(usize, usize)> = (self.entries.iter().enumerate())
            .filter(|(_, entry)| entry.kind == *kind)
            .map(|(index, entry)| (shared(entry), index))
            .filter(|&(count, _)| count > 0)
            .collect();
        candidates.sort_unstable();
        while let Some((count, index)) = candidates.pop() {
            let mut cache = self.entries[index].cache.clone();
            if cache.truncate(offset + count as i32) {
                let entry = self.entries.remove(index);
                self.entries.push(entry);
                return Some((cache, count));
            }
        }
        None
    }

    /// Keeps the state after `tokens`, in place of those after their beginnings.
    pub fn insert(&mut self, tokens: Vec<u32>, kind: StateKind, cache: Cache) {
        let bytes = cache.arrays().map(mlx_rs::Array::nbytes).sum();
        let is_known = |entry: &Entry| {
            entry.kind == kind && entry.tokens.len() >= tokens.len() && entry.tokens.starts_with(&tokens)
        };
        if bytes > self.max_bytes || tokens.is_empty() || self.entries.iter().any(is_known) {
            return;
        }
        self.entries.retain(|entry| {
            // A state that cannot be cut is kept: the next text may go on from it alone.
            let is_replaced = entry.kind == kind && tokens.starts_with(&entry.tokens);
            !(is_replaced && entry.cuts())
        });
        self.entries.push(Entry { tokens, kind, cache, bytes });
        let mut total: usize = self.entries.iter().map(|entry| entry.bytes).sum();
        while total > self.max_bytes {
            total -= self.entries.remove(0).bytes;
        }
    }

    /// Most bytes of all states.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Bytes of all states.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

impl Entry {
    /// Whether earlier states follow from it.
    fn cuts(&self) -> bool {
        self.cache.positions().is_some_and(|len| self.cache.clone().truncate(len - 1))
    }
}
