//! Learned quantization: scales and biases are trained so that the quantized model predicts what the original one does,
//! while the codes stay as they are (distilled weight quantization of
//! [mlx-lm](https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/LEARNED_QUANTS.md)).
//!
//! | step | file |
//! |---|---|
//! | the predictions of the original model, on disk | `teacher` |
//! | codes, and the scales and biases that are trained | `scales` |
//! | divergence from the original model, as a training task | `task` |
//! | batches of sequences | `data` |

mod data;
mod run;
mod scales;
mod task;
mod teacher;

pub(super) use run::learn;
pub(super) use teacher::Teacher;
