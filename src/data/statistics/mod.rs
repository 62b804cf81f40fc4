//! Statistics of a dataset.

mod describe;
mod information;
mod lengths;
mod near_duplicates;

pub use describe::{DataReport, ExamplePart, PairStatistics, SplitStatistics, describe};
pub use lengths::{HistogramBin, LengthStatistics};
