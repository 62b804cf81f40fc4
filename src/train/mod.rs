//! Training loop, optimizers, checkpoints and reports, independent of what is trained.

pub mod checkpoint;
pub mod early_stopping;
pub mod fit;
pub mod gradients;
pub mod hooks;
pub mod memory;
pub mod optimizer;
pub mod plan;
pub mod report;
pub mod schedule;
pub mod session;
pub mod settings;
pub mod sparsity;
pub mod task;
pub mod text;
