//! Rows: the schemas that training data may have, and their parsers.

mod alpaca;
mod chat;
mod columns;
pub(super) mod fields;
pub(super) mod located;
mod lone_surrogate;
mod messages;
mod pair;
pub(super) mod row;
mod sharegpt;
mod tokens;

pub use alpaca::Instruction;
pub use chat::Chat;
pub use columns::Columns;
pub use located::{LocatedRow, Position};
pub use pair::{Answer, Pair, Prompt};
pub use row::Row;
pub use tokens::TokenRow;
