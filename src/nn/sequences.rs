//! Several sequences in one pass.

use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::ops::concatenate;

use super::Result;

/// Sequences that are continued together, each with a cache of its own.
#[derive(Debug)]
pub struct Sequences<'a, C> {
    /// One per sequence.
    pub caches: Vec<&'a mut C>,
    /// Number of new positions of each sequence.
    pub counts: &'a [i32],
}

impl<C> Sequences<'_, C> {
    /// Calls `part` with each cache and the columns of its sequence, and concatenates the results along time.
    ///
    /// # Errors
    /// Errors from `part` and from MLX.
    pub fn map(self, mut part: impl FnMut(&mut C, Range<i32>) -> Result<Array>) -> Result<Array> {
        let mut first = 0;
        let mut results = Vec::with_capacity(self.counts.len());
        for (cache, count) in self.caches.into_iter().zip(self.counts) {
            results.push(part(cache, first..first + count)?);
            first += count;
        }
        concatenate(&results, 1)
    }
}
