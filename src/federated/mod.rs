//! Federated learning: what becomes of the updates of many clients.
//!
//! | | file | |
//! |---|---|---|
//! | rules | `rules` | from the updates of a round to one |
//! | [`aggregate`] | `aggregate` | all updates at once |
//! | [`Codec`] | `codecs` | updates as bytes |
//! | [`Accumulator`] | `accumulator` | weighted averages of updates that come one by one, in constant memory |
//!
//! Everything works on slices, in float64, and rounds once to the dtype of the updates.

mod accumulator;
mod aggregate;
mod codecs;
mod config;
mod distances;
mod mixtures;
mod rules;
mod updates;

pub use accumulator::Accumulator;
pub use aggregate::{Report, aggregate};
pub use codecs::Codec;
pub use config::{AggregateConfig, OnInvalid, PreAggregation};
pub use rules::Rule;
pub use updates::{Tensor, Updates, Values, ValuesMut};
