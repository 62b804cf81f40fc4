//! A file of predictions.
//!
//! | bytes | |
//! |---|---|
//! | 8 | magic |
//! | 8 | number of rows |
//! | 12 per row | its key and its number of positions |
//! | `record_bytes` per position | records of all rows |
//! | 16 | XXH3-128 of all of this |

use std::io::Write as _;
use std::path::Path;

use twox_hash::xxhash3_128::Hasher;

use crate::io::atomic;
use crate::{Result, files};

const MAGIC: &[u8; 8] = b"EATTOPK1";
const HEADER: usize = 16;
const ENTRY: usize = 12;
const CHECKSUM: usize = 16;
/// Largest file that is read, in bytes: one row may be as long as a context.
const MAX_BYTES: u64 = 1 << 32;

/// A row in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Identifies the row.
    pub key: u64,
    /// Number of its positions.
    pub positions: usize,
    /// First byte of its records in the file.
    pub offset: usize,
}

/// Writes the rows `(key, records)` to the file `path`.
///
/// # Errors
/// No space or no permission.
pub(super) fn write(path: &Path, rows: &[(u64, Vec<u8>)], record_bytes: usize) -> Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((rows.len() as u64).to_le_bytes());
    for (key, records) in rows {
        bytes.extend(key.to_le_bytes());
        bytes.extend(((records.len() / record_bytes) as u32).to_le_bytes());
    }
    rows.iter().for_each(|(_, records)| bytes.extend(records));
    bytes.extend(Hasher::oneshot(&bytes).to_le_bytes());
    atomic::write(path, |file| file.write_all(&bytes))
}

/// Reads what rows the file `path` has; `None` if it is missing, damaged, or another file.
pub(super) fn entries(path: &Path, record_bytes: usize) -> Option<Vec<Entry>> {
    let bytes = files::read(path, MAX_BYTES).ok()?;
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if Hasher::oneshot(content).to_le_bytes() != *checksum || !content.starts_with(MAGIC) {
        return None;
    }
    let count = usize::try_from(u64::from_le_bytes(content.get(8..HEADER)?.try_into().ok()?)).ok()?;
    let table = content.get(HEADER..HEADER.checked_add(count.checked_mul(ENTRY)?)?)?;
    let mut offset = HEADER + table.len();
    let mut entries = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        let (key, positions) = entry.split_first_chunk::<8>()?;
        let positions = u32::from_le_bytes(positions.try_into().ok()?) as usize;
        entries.push(Entry { key: u64::from_le_bytes(*key), positions, offset });
        offset = offset.checked_add(positions.checked_mul(record_bytes)?)?;
    }
    (offset == content.len()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.bin");
        assert_eq!(entries(&path, 3), None);
        write(&path, &[(7, vec![1, 2, 3, 4, 5, 6]), (9, Vec::new())], 3).unwrap();
        let found = entries(&path, 3).unwrap();
        assert_eq!(found[0], Entry { key: 7, positions: 2, offset: 40 });
        assert_eq!(found[1], Entry { key: 9, positions: 0, offset: 46 });
        assert_eq!(entries(&path, 4), None);
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..10], &[]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(entries(&path, 3), None);
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(entries(&path, 3), None, "{at}");
        }
    }
}
