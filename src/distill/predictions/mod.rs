//! The teacher's most likely tokens at each target position, on disk.
//!
//! A folder per teacher, data and settings holds files of some thousand positions each. A file is written as a whole and ends
//! with its checksum; what is missing or damaged is computed again.

mod cache;
mod codec;
mod shard;

pub(super) use cache::PredictionCache;
