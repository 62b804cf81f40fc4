//! The events, and what they hold.

use std::path::PathBuf;

use serde::Serialize;

use super::declaration::{Declaration, Field, events, record};

record! {
    /// Estimated memory use of a training run in MLX's allocator, in bytes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
    pub struct MemoryEstimate {
        /// Model weights, including float32 copies of trained parameters.
        pub weights: u64,
        /// Gradients, optimizer state and the best weights so far.
        pub optimizer: u64,
        /// Activations kept for the backward pass over the longest rows.
        pub activations: u64,
        /// Temporary memory of a parameter update.
        pub update: u64,
        /// Total.
        pub peak: u64,
        /// Memory budget, or the memory of the device.
        pub available: u64,
        /// Number of the longest rows processed at once; larger batches are split.
        pub rows: usize,
    }
}

events! {
    /// An event of long-running work; serialized with its name under `"event"`.
    #[derive(Debug, Clone, Serialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    pub enum Event {
        /// Part of a long stage is done, in any kind of work; reported about ten times.
        Progress {
            /// Short name of the stage, which may be followed by its subject: `index PATH` of a streamed file, `reference`.
            stage: String,
            /// Units processed so far: bytes of `index`, pairs of `reference`.
            done: u64,
            /// Total number of units.
            total: u64,
        },
        /// Model and data are loaded; the first step follows.
        Started {
            /// Optimizer steps in the whole run.
            steps: u64,
            /// Step the run resumes from; 0 for a new run.
            first_step: u64,
            /// Number of trained parameters.
            trainable_parameters: u64,
            /// Number of parameters, including adapters.
            total_parameters: u64,
        },
        /// The memory use of the run was estimated.
        Estimated(MemoryEstimate),
        /// An optimizer step was completed.
        Step {
            /// 1-based.
            step: u64,
            /// Optimizer steps in the whole run.
            steps: u64,
            /// Epochs completed so far, fractional.
            epoch: f64,
            /// Loss of this step; for SFT the mean cross-entropy per target token in nats.
            loss: f64,
            /// Learning rate of this step.
            lr: f64,
            /// Gradient norm before clipping.
            grad_norm: f64,
            /// Throughput since the previous step, without padding.
            tokens_per_second: f64,
            /// Peak of MLX's allocator so far, in bytes.
            peak_memory: u64,
            /// Fraction of this step's pairs whose chosen answer has the higher reward.
            reward_accuracy: Option<f64>,
            /// Mean difference between the rewards of the chosen and the rejected answers.
            reward_margin: Option<f64>,
        },
        /// A step was skipped because its gradients overflowed in float16; replaces [`Step`](Self::Step).
        Overflow {
            /// 1-based.
            step: u64,
            /// Optimizer steps in the whole run.
            steps: u64,
            /// Loss of this step; for SFT the mean cross-entropy per target token in nats.
            loss: f64,
            /// New loss scale.
            loss_scale: f64,
        },
        /// Memory ran out; the computation is retried with fewer rows at once.
        OutOfMemory {
            /// 1-based; the step that is retried, or that follows the retried evaluation.
            step: u64,
            /// New number of the longest rows processed at once.
            rows: usize,
        },
        /// The model was evaluated on the validation set.
        Evaluated {
            /// Completed steps; 0 before training.
            step: u64,
            /// Validation loss; for SFT the mean cross-entropy per target token in nats.
            loss: f64,
            /// `exp(loss)`, for SFT.
            perplexity: Option<f64>,
            /// Fraction of pairs whose chosen answer has the higher reward.
            reward_accuracy: Option<f64>,
            /// Mean difference between the rewards of the chosen and the rejected answers.
            reward_margin: Option<f64>,
        },
        /// Training stopped early because the validation loss did not improve.
        Stopped {
            /// Completed steps.
            step: u64,
        },
        /// A checkpoint was saved.
        Checkpoint {
            /// Completed steps at the checkpoint.
            step: u64,
            /// Its folder.
            path: PathBuf,
        },
        /// The run finished and its result was saved.
        Finished {
            /// Completed steps.
            step: u64,
            /// Folder of the result.
            path: PathBuf,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_declared(event: &Event) {
        let json = serde_json::to_value(event).unwrap();
        let name = json["event"].as_str().unwrap().replace('_', "");
        let declared = |declaration: &&Declaration| declaration.name.to_lowercase() == name;
        let declaration = Event::DECLARATIONS.iter().find(declared).unwrap();
        let fields = declaration.fields.iter().map(|field| field.name);
        assert!(json.as_object().unwrap().keys().map(String::as_str).eq(["event"].into_iter().chain(fields)));
    }

    #[test]
    fn json_holds_what_is_declared() {
        assert_declared(&Event::Estimated(MemoryEstimate::default()));
        assert_declared(&Event::OutOfMemory { step: 1, rows: 2 });
        let (reward_accuracy, reward_margin) = (None, Some(0.5));
        let perplexity = None;
        assert_declared(&Event::Evaluated { step: 0, loss: 1.0, perplexity, reward_accuracy, reward_margin });
    }
}
