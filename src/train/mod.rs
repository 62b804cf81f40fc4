//! Training, whatever is trained: the loop, its parts, and checkpoints.

pub mod checkpoint;
pub mod evaluate;
pub mod fit;
pub mod optimizer;
pub mod schedule;
pub mod step;
