//! What a data set amounts to.

mod describe;
mod information;
mod near_duplicates;

pub use describe::{Bar, DataReport, Lengths, PairStatistics, SplitStatistics, describe};
