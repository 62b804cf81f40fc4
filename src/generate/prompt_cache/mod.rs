//! States of texts that were read before, found again by their tokens: in memory, and in files that outlast the process.

mod disk;
mod entry;
mod memory;
mod writer;

#[cfg(test)]
mod tests;

use crate::models::Model;
use crate::nn::Cache;

pub use disk::DiskCache;
pub use memory::MemoryCache;

/// What a state depends on besides the tokens: the weights, and how keys and values are stored and rotated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateKind {
    /// Identifies the weights of the model, adapters included, in this process.
    pub weights: u64,
    /// Bits and group size of quantized keys and values.
    pub quantized: Option<(usize, usize)>,
    /// Identifies the rotations, which may depend on the length of the text.
    pub rotation: u64,
}

/// States in memory, and below them in files.
#[derive(Debug, Default)]
pub struct PromptCache {
    memory: MemoryCache,
    disk: Option<DiskCache>,
}

impl PromptCache {
    /// Creates a cache of two levels.
    #[must_use]
    pub fn new(memory: MemoryCache, disk: Option<DiskCache>) -> Self {
        Self { memory, disk }
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.disk.is_some() || self.memory.max_bytes() > 0
    }

    /// Whether states of these weights can be kept in files only once it is told
    /// [what they are](Self::set_fingerprint).
    #[must_use]
    pub fn needs_fingerprint(&self, weights: u64) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.fingerprint(weights).is_none())
    }

    /// What identifies these weights in every process, if it was told.
    #[must_use]
    pub fn fingerprint(&self, weights: u64) -> Option<u128> {
        self.disk.as_ref()?.fingerprint(weights)
    }

    /// Tells what identifies these weights in every process.
    pub fn set_fingerprint(&mut self, weights: u64, fingerprint: u128) {
        if let Some(disk) = &mut self.disk {
            disk.set_fingerprint(weights, fingerprint);
        }
    }

    /// Returns the state of `model` after the longest known beginning of `tokens`, with the number of its tokens.
    /// `offset` is the number of positions before the first token: a soft prompt.
    pub fn find(
        &mut self,
        model: &Model,
        tokens: &[u32],
        kind: &StateKind,
        offset: i32,
    ) -> Option<(Cache, usize)> {
        let found = self.memory.find(tokens, kind, offset);
        let known = found.as_ref().map_or(0, |&(_, count)| count);
        let Some(disk) = &mut self.disk else { return found };
        let Some((whole, mut cache)) = disk.find(model, tokens, kind, offset, known) else { return found };
        self.memory.insert(whole.clone(), kind.clone(), cache.clone());
        let count = whole.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if cache.truncate(offset + count as i32) { Some((cache, count)) } else { found }
    }

    /// Keeps the state after `tokens`, in place of those after their beginnings.
    pub fn insert(&mut self, tokens: Vec<u32>, kind: StateKind, cache: Cache) {
        if let Some(disk) = &mut self.disk {
            disk.insert(&tokens, &kind, &cache);
        }
        self.memory.insert(tokens, kind, cache);
    }

    /// Bytes of the states in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Waits until all states are in files that are to be; later ones are kept in memory only.
    pub fn close(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.close();
        }
    }
}
