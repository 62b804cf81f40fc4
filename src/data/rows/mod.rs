//! What one row of a file holds.

mod alpaca;
mod columns;
mod pair;
pub(super) mod row;
mod sharegpt;

pub use alpaca::Instruction;
pub use columns::Columns;
pub use pair::{Answer, Pair, Prompt};
pub use row::Row;
