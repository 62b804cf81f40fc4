//! Tests of the crate as a whole, in one binary.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod architecture;
mod contrastive;
mod fingerprint;
mod fixtures;
mod graphs;
mod kv_cache;
mod packing;
