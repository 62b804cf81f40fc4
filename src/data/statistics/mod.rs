//! What a data set amounts to.

mod describe;
mod information;
mod lengths;
mod near_duplicates;

pub use describe::{DataReport, PairStatistics, SplitStatistics, describe};
pub use lengths::{HistogramBin, LengthStatistics};
