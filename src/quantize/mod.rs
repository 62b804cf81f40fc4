//! Post-training quantization of language models.
//!
//! | technique | file | needs calibration text |
//! |---|---|---|
//! | round to nearest | `rtn` | no; with it, ranges are weighted by activations |
//! | [AWQ](https://arxiv.org/abs/2306.00978) | `awq` | yes |
//! | [GPTQ](https://arxiv.org/abs/2210.17323) | `gptq` | yes |
//! | scales and biases learned by distillation | `learned` | yes |
//! | mixed precision: a format per layer, by `sensitivity`, then one of the above | `mixed` | yes, or sensitivities measured before |
//!
//! With any of them, [SmoothQuant](https://arxiv.org/abs/2211.10438) prepares the model for activations that are quantized
//! at run time (`smoothquant`).
//!
//! [`run`] plans the format of every layer, streams calibration text through the blocks, and saves an MLX checkpoint.

mod assignment;
mod awq;
mod block;
mod config;
mod format;
mod gptq;
mod grid;
mod importance;
mod job;
mod layer;
mod learned;
mod mixed;
mod output_error;
mod plan;
mod report;
mod rtn;
mod run;
mod sensitivity;
mod smoothquant;
mod stages;
#[cfg(test)]
mod test_models;

pub use config::{QuantizeConfig, Technique};
pub use format::{LayerSetting, QuantizationMode};
pub use report::Sensitivity;
pub use report::{LayerReport, Report};
pub use run::{Summary, check_output, run, validate};
