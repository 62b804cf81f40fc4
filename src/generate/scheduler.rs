//! Continuous batching ([Orca](https://www.usenix.org/conference/osdi22/presentation/yu)): requests join and leave
//! between steps, and every step reads the weights once for all of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::{GenerateConfig, check_cache_rows};
use super::constraint::Vocabulary;
use super::draft::Draft;
use super::finish::FinishReason;
use super::prompt_cache::{DiskCache, MemoryCache, PromptCache, StateKind};
use super::replay::{Part, Replay};
use super::sequence::{Event, Sequence};
use super::speculative::Drafter;
use crate::data::Tokenizer;
use crate::kernels::quantized::Accuracy;
use crate::models::{self, Model};
use crate::nn::RowAdapter;
use crate::{Error, Result};

/// Prompt tokens of a pass whose logits are all asked for, which bounds the memory of those.
const REPORTED_CHUNK: usize = 64;

/// Settings of a scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Maximum number of sequences that are continued at once, at least 1.
    pub max_batch: usize,
    /// Prompt tokens per step, which bounds the memory of long prompts, at least 1.
    pub prefill_chunk: usize,
    /// Prompt tokens per step while other sequences are continued, which bounds how long they wait.
    pub shared_prefill_chunk: usize,
    /// Memory for the states of earlier texts, in bytes; 0 keeps none.
    pub prompt_cache_bytes: usize,
    /// Folder for the states of earlier texts, which outlast the process there; `None` keeps none.
    pub prompt_cache_dir: Option<PathBuf>,
    /// Bytes of the files in that folder.
    pub prompt_cache_disk_bytes: u64,
    /// Tokens that a draft model proposes at a time, at least 1.
    pub draft_tokens: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_batch: 8,
            prefill_chunk: 512,
            shared_prefill_chunk: 128,
            prompt_cache_bytes: 0,
            prompt_cache_dir: None,
            prompt_cache_disk_bytes: 0,
            draft_tokens: 4,
        }
    }
}

impl SchedulerConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and the valid range.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("max_batch", self.max_batch),
            ("prefill_chunk", self.prefill_chunk),
            ("shared_prefill_chunk", self.shared_prefill_chunk),
            ("draft_tokens", self.draft_tokens),
        ];
        match counts.into_iter().find(|&(_, value)| value == 0) {
            Some((key, _)) => Err(Error::Config(format!("{key} is 0; it must be at least 1"))),
            None => Ok(()),
        }
    }
}

/// Requests that wait, and those that are continued together.
pub struct Scheduler {
    config: SchedulerConfig,
    accuracy: Option<Accuracy>,
    vocabulary: Option<Vocabulary>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    prompts: PromptCache,
    /// Identifies the weights that states were computed with.
    weights: u64,
    replay: Replay,
    drafter: Drafter,
    next_id: u64,
}

impl Scheduler {
    /// Creates a scheduler whose steps have kernels of `accuracy`.
    ///
    /// # Errors
    /// A setting out of range; a folder for states that cannot be created.
    pub fn new(config: SchedulerConfig, accuracy: Option<Accuracy>) -> Result<Self> {
        config.validate()?;
        let disk = config.prompt_cache_dir.clone().map(|folder| {
            DiskCache::open(folder, config.prompt_cache_disk_bytes, accuracy.unwrap_or(Accuracy::F32))
        });
        Ok(Self {
            prompts: PromptCache::new(MemoryCache::new(config.prompt_cache_bytes), disk.transpose()?),
            config,
            accuracy,
            weights: 0,
            vocabulary: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            replay: Replay::default(),
            drafter: Drafter::default(),
            next_id: 0,
        })
    }

    /// Adds a request to continue `prompt` (token ids) at the end of the queue, and returns its number. It has the adapter
    /// that is attached to the model.
    ///
    /// # Errors
    /// Those of [`add_with_adapter`](Self::add_with_adapter).
    pub fn add(
        &mut self,
        model: &Model,
        tokenizer: &Tokenizer,
        prompt: Vec<u32>,
        config: GenerateConfig,
    ) -> Result<u64> {
        self.add_with_adapter(model, tokenizer, prompt, config, None)
    }

    /// The same with an `adapter` in place of what is attached to the model. Requests with different ones are computed
    /// together.
    ///
    /// # Errors
    /// A prompt without tokens, or with one that is not in the vocabulary; a setting out of range, or one that all
    /// requests share.
    pub fn add_with_adapter(
        &mut self,
        model: &Model,
        tokenizer: &Tokenizer,
        prompt: Vec<u32>,
        config: GenerateConfig,
        adapter: Option<Arc<RowAdapter>>,
    ) -> Result<u64> {
        config.validate()?;
        if prompt.is_empty() {
            return Err(Error::Config("the prompt has no tokens".into()));
        }
        models::check_tokens(&prompt, model.vocab_size())?;
        if config.accuracy.is_some() && config.accuracy != self.accuracy {
            return Err(Error::Config(format!(
                "accuracy is {:?}, but {:?} for all requests that are computed together",
                config.accuracy, self.accuracy
            )));
        }
        if let Some(format) = config.kv_format()? {
            check_cache_rows(model, format)?;
        }
        let constraint = match &config.response_format {
            None => None,
            Some(format) => {
                let vocabulary = match self.vocabulary.take() {
                    Some(vocabulary) => vocabulary,
                    None => Vocabulary::new(tokenizer, model.vocab_size())?,
                };
                Some(self.vocabulary.insert(vocabulary).constrain(format)?)
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Sequence::new(id, prompt, config, constraint, adapter));
        Ok(id)
    }

    /// Ends a request; its last event comes with the next step. Unknown numbers are ignored: it may have ended.
    pub fn cancel(&mut self, id: u64) {
        let sequences = self.waiting.iter_mut().chain(&mut self.running);
        for sequence in sequences.filter(|sequence| sequence.id == id) {
            sequence.finish.get_or_insert(FinishReason::Cancelled);
        }
    }

    /// The adapter with this id, if a request has it.
    #[must_use]
    pub fn adapter(&self, id: u64) -> Option<Arc<RowAdapter>> {
        let adapters =
            self.waiting.iter().chain(&self.running).filter_map(|sequence| sequence.adapter.as_ref());
        adapters.into_iter().find(|adapter| adapter.id() == id).cloned()
    }

    /// Whether requests have adapters of their own.
    #[must_use]
    pub fn has_adapters(&self) -> bool {
        self.waiting.iter().chain(&self.running).any(|sequence| sequence.adapter.is_some())
    }

    /// Number of requests that are continued.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the states of earlier texts.
    #[must_use]
    pub fn prompt_cache_bytes(&self) -> usize {
        self.prompts.bytes()
    }

    /// Whether it has to be told what [identifies](Self::set_fingerprint) the weights of this number.
    #[must_use]
    pub fn needs_fingerprint(&self, number: u64) -> bool {
        self.prompts.needs_fingerprint(number)
    }

    /// What identifies the weights of this number in every process, if it was told.
    #[must_use]
    pub fn fingerprint(&self, number: u64) -> Option<u128> {
        self.prompts.fingerprint(number)
    }

    /// Tells what identifies the weights of this number in every process: only then are states kept in files.
    pub fn set_fingerprint(&mut self, number: u64, fingerprint: u128) {
        self.prompts.set_fingerprint(number, fingerprint);
    }

    /// Waits until all states are in files that are to be; later ones are kept in memory only.
    pub fn close(&mut self) {
        self.prompts.close();
    }

    /// Tells which weights `model` has from now on, adapters included: states of earlier texts are used again with the
    /// same number only, and running requests without an adapter of their own are read again where it changes.
    pub fn set_weights(&mut self, model: &Model, number: u64) {
        if number == self.weights {
            return;
        }
        self.weights = number;
        self.replay.reset();
        for sequence in self.running.iter_mut().filter(|sequence| sequence.adapter.is_none()) {
            if let Err(error) = sequence.restart(model) {
                sequence.fail(error);
            }
        }
    }

    /// Continues all running requests by a token each, reads a part of the prompts of those that have just joined, and
    /// returns what is new. Nothing is left to do once no request waits or runs. A `draft` model that passed
    /// [`check`](super::speculative::check) proposes further tokens.
    pub fn step(&mut self, model: &Model, draft: Option<&Model>, tokenizer: &Tokenizer) -> Vec<Event> {
        let accuracy = self.accuracy.unwrap_or(Accuracy::F32);
        self.admit(model);
        accuracy.scope(|| {
            if let Some(draft) = draft {
                self.propose(draft);
            }
            self.advance(model, tokenizer);
        });
        let events =
            self.running.iter_mut().chain(&mut self.waiting).filter_map(Sequence::take_event).collect();
        self.waiting.retain(|sequence| sequence.finish.is_none());
        for sequence in self.running.extract_if(.., |sequence| sequence.finish.is_some()) {
            let kind = sequence.kind(model, self.weights);
            if let (Some(cache), Some(FinishReason::Stop | FinishReason::Length)) =
                (sequence.cache, sequence.finish)
            {
                self.prompts.insert(sequence.tokens[..sequence.cached].to_vec(), kind, cache);
            }
        }
        events
    }

    /// Lets the draft model propose tokens for all requests whose prompt is read.
    fn propose(&mut self, draft: &Model) {
        let is_ready = |sequence: &&mut Sequence| sequence.finish.is_none() && sequence.decodes();
        let mut ready: Vec<_> = self.running.iter_mut().filter(is_ready).collect();
        if let Err(error) = self.drafter.propose(draft, &mut ready, self.config.draft_tokens) {
            log::warn!("the draft model failed: {error}");
            for sequence in ready {
                sequence.draft = Draft::default();
            }
        }
    }

    /// Lets waiting requests join, in order.
    fn admit(&mut self, model: &Model) {
        while self.running.len() < self.config.max_batch
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            if sequence.finish.is_none()
                && let Err(error) = self.prepare(model, &mut sequence)
            {
                sequence.fail(error);
            }
            self.running.push(sequence);
        }
    }

    /// Gives a request the state that it starts from.
    fn prepare(&mut self, model: &Model, sequence: &mut Sequence) -> Result<()> {
        sequence.restart(model)?;
        // At least one token must be read, and all whose log-probabilities are asked for.
        if self.prompts.is_used() && sequence.config.prompt_logprobs.is_none() {
            let known = &sequence.tokens[..sequence.tokens.len() - 1];
            let offset = sequence.cache.as_ref().and_then(crate::nn::Cache::positions).unwrap_or(0);
            let kind = sequence.kind(model, self.weights);
            if let Some((cache, count)) = self.prompts.find(model, known, &kind, offset) {
                (sequence.cache, sequence.cached, sequence.reused) = (Some(cache), count, count);
            }
        }
        Ok(())
    }

    /// One pass for all running requests.
    fn advance(&mut self, model: &Model, tokenizer: &Tokenizer) {
        let counts = self.plan();
        let mut chosen: Vec<(&mut Sequence, usize)> =
            self.running.iter_mut().zip(counts).filter(|&(_, count)| count > 0).collect();
        if chosen.is_empty() {
            return;
        }
        // Rows of one adapter side by side: each is read once.
        chosen.sort_by_key(|(sequence, _)| sequence.adapter.as_ref().map(|adapter| adapter.id()));
        let mut parts: Vec<Part> =
            chosen.iter_mut().filter_map(|(sequence, count)| sequence.part(model, *count)).collect();
        let wanted: Vec<usize> = parts.iter().map(|part| part.wanted).collect();
        let outcome = self.replay.run(model, &mut parts);
        let mut logits = match outcome {
            Ok(logits) => logits,
            Err(error) => {
                self.replay.reset();
                let message = error.to_string();
                let mut error = Some(error);
                for (sequence, _) in chosen {
                    sequence.fail(error.take().unwrap_or_else(|| Error::Hardware(message.clone())));
                }
                return;
            }
        };
        let vocab = model.vocab_size().unsigned_abs() as usize;
        let mut rows = &mut logits[..];
        for ((sequence, count), wanted) in chosen.into_iter().zip(wanted) {
            let own = rows.split_off_mut(..wanted * vocab).unwrap_or_default();
            let was_reading = sequence.cached < sequence.prompt;
            if let Err(error) = sequence.advance(model, tokenizer, count, own) {
                sequence.fail(error);
            } else if was_reading && sequence.cached == sequence.prompt && self.prompts.is_used() {
                let kind = sequence.kind(model, self.weights);
                keep_prompt(&mut self.prompts, kind, sequence);
            }
        }
    }

    /// Number of tokens that each running request appends in the next pass.
    fn plan(&self) -> Vec<usize> {
        let others = self.running.iter().any(Sequence::decodes);
        let mut left = if others { self.config.shared_prefill_chunk } else { self.config.prefill_chunk };
        let count = |sequence: &Sequence| {
            if sequence.finish.is_some() {
                return 0;
            }
            if sequence.decodes() {
                return 1;
            }
            let limit = if sequence.config.prompt_logprobs.is_some() { REPORTED_CHUNK } else { usize::MAX };
            let count = sequence.pending().min(left).min(limit);
            left -= count;
            count
        };
        self.running.iter().map(count).collect()
    }
}

/// Keeps the state after a prompt, where it does not follow from a later one.
fn keep_prompt(prompts: &mut PromptCache, kind: StateKind, sequence: &Sequence) {
    let Some(cache) = &sequence.cache else { return };
    if cache.positions().is_none_or(|len| !cache.clone().truncate(len - 1)) {
        prompts.insert(sequence.tokens[..sequence.cached].to_vec(), kind, cache.clone());
    }
}
