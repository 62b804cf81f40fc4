//! Distillation: a student is trained to predict what a teacher with the same vocabulary predicts
//! ([Hinton et al.](https://arxiv.org/abs/1503.02531)). It is a run of fine-tuning with another [`Task`](crate::train::task::Task).
//!
//! | step | file |
//! |---|---|
//! | the settings beside those of fine-tuning | `config` |
//! | how far two distributions are apart | `divergence` |
//! | the predictions of the teacher, computed or from disk | `teacher`, `predictions` |
//! | the divergence at each position, from logits that are never held all at once | `positions` |
//! | positions that count | `selection` |
//! | samples of the student in place of data | `rollout` |
//! | loss and inputs | `task` |

mod config;
mod divergence;
mod positions;
mod predictions;
mod rollout;
mod run;
mod selection;
mod task;
mod teacher;

pub use config::DistillConfig;
pub use run::{TeacherSource, run};
