//! Training, whatever is trained: the loop, its parts, and checkpoints.

pub mod adamw;
pub mod checkpoint;
pub mod evaluate;
pub mod fit;
pub mod hook;
pub mod lr_factors;
pub mod schedule;
pub mod step;
