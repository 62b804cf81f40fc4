//! Post-training quantization of language models.
//!
//! | technique | file | needs calibration text |
//! |---|---|---|
//! | round to nearest | `rtn` | no; with it, ranges are weighted by activations |
//! | [GPTQ](https://arxiv.org/abs/2210.17323) | `gptq` | yes |
//! | scales and biases learned by distillation | `learned` | yes |
//!
//! [`run`] plans the format of every layer, streams calibration text through the blocks, and saves an MLX checkpoint.

mod block;
mod config;
mod format;
mod gptq;
mod grid;
mod layer;
mod learned;
mod plan;
mod report;
mod rtn;
mod run;
mod stages;

pub use config::{LayerSetting, QuantizationMode, QuantizeConfig, Technique};
pub use report::{LayerReport, Report};
pub use run::{check_output, run};
