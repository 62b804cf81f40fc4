//! The events, and what they hold.

use std::path::PathBuf;

use serde::Serialize;

use super::declaration::{Declaration, Field, events, record};

record! {
    /// What a training run takes of MLX's memory, in bytes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
    pub struct MemoryEstimate {
        /// The model, and what is trained in f32 where the model has another format.
        pub weights: u64,
        /// Gradients, what the optimizer remembers, and the best weights so far.
        pub optimizer: u64,
        /// What a pass over the longest rows keeps for its gradient.
        pub activations: u64,
        /// What an update of the parameters takes for a moment.
        pub update: u64,
        /// All of it.
        pub peak: u64,
        /// What there is: the budget, or else the device's memory.
        pub available: u64,
        /// The longest rows that go through the model at once, at most a batch; the rest of a batch follows.
        pub rows: usize,
    }
}

events! {
    /// A typed report; serialised with its name under `"event"`.
    #[derive(Debug, Clone, Serialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    pub enum Event {
        /// Part of a long stage is done, of whatever kind of work; told about ten times.
        Progress {
            /// `index` and the path of a streamed file, or `reference`.
            stage: String,
            /// Units so far: bytes of the file of `index`, pairs of `reference`.
            done: u64,
            /// All of them.
            total: u64,
        },
        /// Everything is loaded; the first step follows.
        Started {
            /// Optimizer steps in the whole run.
            steps: u64,
            /// Step this run continues from; 0 for a fresh one.
            first_step: u64,
            /// Numbers that will change.
            trainable_parameters: u64,
            /// Numbers in the model, adapters included.
            total_parameters: u64,
        },
        /// What the run is expected to take.
        Estimated(MemoryEstimate),
        /// One optimizer step was taken.
        Step {
            /// 1-based.
            step: u64,
            /// Optimizer steps in the whole run.
            steps: u64,
            /// Passes over the data so far, fractional.
            epoch: f64,
            /// The loss of this step's batch; of SFT the mean cross-entropy per target token, in nats.
            loss: f64,
            /// Learning rate of this step.
            lr: f64,
            /// Gradient norm before clipping.
            grad_norm: f64,
            /// Tokens that went through the model (padding not counted) per second since the last step.
            tokens_per_second: f64,
            /// Peak of MLX's allocator so far, in bytes.
            peak_memory: u64,
            /// Share of this step's pairs whose chosen answer has the higher reward.
            reward_accuracy: Option<f64>,
            /// Mean of the chosen answer's reward less the other's.
            reward_margin: Option<f64>,
        },
        /// In place of [`Step`](Self::Step) where gradients overflowed in float16: nothing was changed, and the loss is
        /// multiplied with less from now on.
        Overflow {
            /// 1-based.
            step: u64,
            /// Optimizer steps in the whole run.
            steps: u64,
            /// The loss of this step's batch; of SFT the mean cross-entropy per target token, in nats.
            loss: f64,
            /// What the loss is multiplied with from now on.
            loss_scale: f64,
        },
        /// Memory ran out: what was computed is computed again, with fewer rows at once.
        OutOfMemory {
            /// 1-based; the step that begins again, or that follows the evaluation that does.
            step: u64,
            /// The longest rows that go through the model at once from now on.
            rows: usize,
        },
        /// The validation set was scored.
        Evaluated {
            /// Steps taken before; 0 is the untouched model.
            step: u64,
            /// The loss; of SFT the mean cross-entropy per target token, in nats.
            loss: f64,
            /// `exp(loss)`, of SFT.
            perplexity: Option<f64>,
            /// Share of pairs whose chosen answer has the higher reward.
            reward_accuracy: Option<f64>,
            /// Mean of the chosen answer's reward less the other's.
            reward_margin: Option<f64>,
        },
        /// The validation loss has not improved for long enough: there are no more steps.
        Stopped {
            /// Steps taken.
            step: u64,
        },
        /// A checkpoint is on disk.
        Checkpoint {
            /// Steps it holds.
            step: u64,
            /// Its folder.
            path: PathBuf,
        },
        /// The run is complete and its result is on disk.
        Finished {
            /// Steps taken.
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
