//! Training, whatever is trained: the loop, its parts, and checkpoints.

pub mod checkpoint;
mod dropout;
pub mod evaluate;
pub mod fit;
pub mod gradients;
pub mod hooks;
pub mod inputs;
pub mod loss_scale;
pub mod lr_factors;
pub mod memory;
pub mod optimizer;
mod passes;
pub mod plan;
pub mod report;
pub mod rewards;
pub mod schedule;
pub mod session;
pub mod settings;
pub mod task;
pub mod text;
pub mod watch;
