//! Pruning of language models.
//!
//! | method | file | score of a weight | needs calibration text |
//! |---|---|---|---|
//! | magnitude | `magnitude` | `\|w\|` | no |
//! | random | `random` | random | no |
//! | [Wanda](https://arxiv.org/abs/2306.11695) | `wanda` | `\|w\|·‖x‖` | yes |
//! | [SparseGPT](https://arxiv.org/abs/2301.00774) | `sparsegpt` | `w²/[H⁻¹]ⱼⱼ`, and the weights that stay make up for the others | yes |
//! | [Taylor](https://arxiv.org/abs/1906.10771) | `taylor` | `\|w·∂L/∂w\|` | yes |
//! | activation | `structured` | of a block: how much it changes its inputs | yes |
//! | auto | `block` | for each layer the one of these whose outputs are closest to those of the original | yes |
//!
//! Structured patterns give a smaller model; see `structured`.
//!
//! [`run`] streams calibration text through the blocks, so that one block is observed at a time, and saves an ordinary
//! checkpoint.

mod allocation;
mod block;
mod config;
mod magnitude;
mod mask;
mod measure;
mod method;
mod pattern;
mod plan;
mod progress;
mod random;
mod reconstruction;
mod report;
mod run;
mod sensitivity;
mod sparsegpt;
mod structured;
mod taylor;
#[cfg(test)]
mod tests;
mod wanda;

pub use config::{Allocation, Part, PruneConfig, Repair, Storage};
pub use measure::{MeasuredLayer, Seconds, measure};
pub use method::Method;
pub use pattern::Pattern;
pub use report::{BlockReport, LayerReport, Report};
pub use run::{Summary, check_output, run, validate};
