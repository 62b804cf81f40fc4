//! Training, whatever is trained: the loop, its parts, and checkpoints.

pub mod batches;
pub mod checkpoint;
pub mod evaluate;
pub mod feed;
pub mod fit;
pub mod hook;
pub mod loss_scale;
pub mod lr_factors;
pub mod memory;
pub mod objective;
pub mod optimizer;
mod passes;
pub mod plan;
pub mod reference;
pub mod rewards;
pub mod schedule;
pub mod step;
pub mod watch;
