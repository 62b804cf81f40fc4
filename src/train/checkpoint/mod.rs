//! Everything a run needs to go on as if it had never stopped.
//!
//! ```text
//! checkpoints/step-0000100/
//!     parameters.safetensors   the trained parameters
//!     optimizer.safetensors    what the optimizer remembers
//!     method.safetensors       what the method remembers, if anything
//!     best.safetensors         the parameters of the lowest validation loss, where the run keeps them
//!     state.json               step, curves, and what the run was started with
//! checkpoints/reference.json   what all of them need besides, if anything
//! ```
//! Dropout masks and the order of the data are functions of the seed and the step, so
//! there is no other state.

mod best;
mod manager;
mod state;

pub use best::BestParameters;
pub use manager::CheckpointManager;
pub use state::{History, TrainingState};
