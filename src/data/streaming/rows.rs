//! Training rows on disk.

use rand::SeedableRng as _;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::index::{Indexer, RowFiles, RowOffset};
use crate::Result;
use crate::data::rows::{Columns, LocatedRow};
use crate::data::splits::Splits;
use crate::data::splits::read::read_splits_with;
use crate::progress::Observer;
use crate::rng::digest;

/// Like [`read_splits`](crate::data::read_splits), but training rows stay on disk. All rows are validated first, so
/// that an invalid row is found before training starts.
///
/// # Errors
/// See [`read_splits`](crate::data::read_splits); training files that are not jsonl;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn stream_splits(
    data: &str,
    columns: &Columns,
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<(IndexedRows, Splits)> {
    let mut indexer = Indexer::new(columns.clone(), observer);
    let Splits { train, valid, test } = read_splits_with(&mut indexer, data, columns, seed)?;
    let rows = IndexedRows { files: indexer.finish(), offsets: train };
    Ok((rows, Splits { train: Vec::new(), valid, test }))
}

/// Training rows on disk, by their offsets.
#[derive(Debug)]
pub struct IndexedRows {
    pub(super) files: RowFiles,
    pub(super) offsets: Vec<RowOffset>,
}

impl IndexedRows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Reads at most `count` rows, drawn with `seed`, in their original order.
    ///
    /// # Errors
    /// A file that has changed or cannot be read.
    pub fn sample(&self, count: usize, seed: u64) -> Result<Vec<LocatedRow>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut indices = index::sample(&mut rng, self.len(), count.min(self.len())).into_vec();
        indices.sort_unstable();
        let mut reader = self.files.reader();
        indices.into_iter().map(|index| reader.read(self.offsets[index])).collect()
    }

    /// A fingerprint of rows and content.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let offsets = self.offsets.iter().map(|offset| offset.to_bits());
        digest(offsets.chain([self.files.digest()]))
    }
}
