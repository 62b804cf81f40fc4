//! Checkpoints of a training run, from which it can be resumed exactly.
//!
//! ```text
//! checkpoints/step-0000100/
//!     parameters.safetensors   the trained parameters
//!     optimizer.safetensors    the optimizer state
//!     method.safetensors       the state of hooks, if any
//!     best.safetensors         the parameters with the lowest validation loss, if kept
//!     state.json               step, loss curves, and the identity of the run
//! checkpoints/reference.json   a file shared by all checkpoints, if any
//! ```
//! Dropout masks and the order of the data are functions of the seed and the step, so there is no other state.

mod best;
mod manager;
mod state;

pub use best::BestParameters;
pub use manager::CheckpointManager;
pub use state::{History, TrainingState};
