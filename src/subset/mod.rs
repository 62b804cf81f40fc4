//! Data-set quantization: a few rows of a data set that stand for all of them, stored as they are or as token ids.

mod config;
mod run;

pub use config::{RowFormat, SubsetConfig};
pub use run::{Report, check_output, run};
