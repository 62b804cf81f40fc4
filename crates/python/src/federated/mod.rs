//! `_core.federated`: what becomes of the updates of many clients.

mod aggregation;
mod arrays;
mod codecs;

pub(super) use aggregation::{Accumulator, aggregate};
pub(super) use codecs::{decode, encode, wire_bytes};
