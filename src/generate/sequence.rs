//! The state of one request.

use std::mem;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::GenerateConfig;
use super::constraint::Constraint;
use super::draft::Draft;
use super::finish::FinishReason;
use super::log_probabilities::TokenLogProbability;
use super::prompt_cache::StateKind;
use super::replay::Part;
use super::sampler::Sampler;
use super::stop_strings::StopStrings;
use crate::data::{DecodeStream, Tokenizer};
use crate::models::Model;
use crate::nn::{Cache, RowAdapter};
use crate::{Error, Result};

/// What a step has changed for one request.
#[derive(Debug, Serialize)]
pub struct Event {
    /// Identifies the request.
    pub id: u64,
    /// Text that is final since the last event.
    pub text: String,
    /// Tokens sampled since the last event.
    pub tokens: Vec<u32>,
    /// Log-probabilities of `tokens`, if they are asked for.
    pub logprobs: Vec<TokenLogProbability>,
    /// Log-probabilities of the prompt's tokens but the first, if they are asked for; only in one event.
    pub prompt_logprobs: Vec<TokenLogProbability>,
    /// Why it ended; `None` while it goes on.
    pub finish_reason: Option<FinishReason>,
    /// Why it failed.
    #[serde(serialize_with = "as_message")]
    pub error: Option<Error>,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Number of prompt tokens whose state was cached.
    pub cached_tokens: usize,
    /// Number of sampled tokens, including the end token.
    pub generated_tokens: usize,
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn as_message<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Error::to_string).serialize(serializer)
}

/// A prompt with what has been generated.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Identifies the request.
    pub id: u64,
    pub config: GenerateConfig,
    /// `None` for what is attached to the model.
    pub adapter: Option<Arc<RowAdapter>>,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    /// Number of prompt tokens.
    pub prompt: usize,
    /// State after the first `cached` tokens; `None` until it runs.
    pub cache: Option<Cache>,
    pub cached: usize,
    /// Number of tokens that were known when it began to read them.
    pub planned: usize,
    /// Number of prompt tokens whose state was found in the prompt cache.
    pub reused: usize,
    /// Why it ended.
    pub finish: Option<FinishReason>,
    /// What a small model proposes.
    pub draft: Draft,
    /// Tokens of the current pass: those that are not cached, then proposals.
    feed: Vec<u32>,
    sampler: Sampler,
    stream: DecodeStream,
    stops: StopStrings,
    constraint: Option<Constraint>,
    error: Option<Error>,
    text: String,
    new_tokens: Vec<u32>,
    logprobs: Vec<TokenLogProbability>,
    prompt_logprobs: Vec<TokenLogProbability>,
}

impl Sequence {
    pub(super) fn new(
        id: u64,
        tokens: Vec<u32>,
        config: GenerateConfig,
        constraint: Option<Constraint>,
        adapter: Option<Arc<RowAdapter>>,
    ) -> Self {
        Self {
            id,
            adapter,
            prompt: tokens.len(),
            tokens,
            cache: None,
            cached: 0,
            planned: 0,
            reused: 0,
            finish: None,
            draft: Draft::default(),
            feed: Vec::new(),
            sampler: Sampler::new(&config),
            stream: DecodeStream::new(config.skip_special_tokens),
            stops: StopStrings::new(&config.stop),
            constraint,
            error: None,
            text: String::new(),
            new_tokens: Vec::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            config,
        }
    }

    /// Starts again with an empty cache.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn restart(&mut self, model: &Model) -> Result<()> {
        let mut cache = model.new_cache(self.tokens.len() as i32)?;
        if let Some(format) = self.config.kv_format()? {
            cache.quantize(format);
        }
        (self.cache, self.cached, self.planned) = (Some(cache), 0, self.tokens.len());
        Ok(())
    }

    /// What its state depends on besides the tokens; `weights` is the number of those that are on the model.
    pub(super) fn kind(&self, model: &Model, weights: u64) -> StateKind {
        StateKind {
            weights: self.adapter.as_ref().map_or(weights, |adapter| adapter.id()),
            quantized: self.config.kv_bits.map(|bits| (bits, self.config.kv_group_size)),
            rotation: model.rotation_variant(self.planned as i32),
        }
    }

    /// Number of tokens that may still be generated.
    pub(super) fn left(&self) -> usize {
        (self.prompt + self.config.max_tokens).saturating_sub(self.tokens.len())
    }

    /// The next `count` tokens for a pass, and all proposals if those are the last; `None` before it has a cache.
    pub(super) fn part(&mut self, model: &Model, count: usize) -> Option<Part<'_>> {
        let end = self.cached + count;
        let is_last = end == self.tokens.len();
        let proposals = if is_last { self.draft.proposals.len() } else { 0 };
        self.feed.clear();
        self.feed.extend_from_slice(&self.tokens[self.cached..end]);
        self.feed.extend_from_slice(&self.draft.proposals[..proposals]);
        let wanted = if self.config.prompt_logprobs.is_some() && end <= self.prompt {
            count
        } else {
            usize::from(is_last) + proposals
        };
        let length = end as i32;
        Some(Part {
            id: self.id,
            adapter: self.adapter.as_ref(),
            cache: self.cache.as_mut()?,
            tokens: &self.feed,
            wanted,
            is_steady: model.rotation_variant(length) == model.rotation_variant(length - 1),
        })
    }

    /// Takes the result of a pass with the next `count` tokens: `logits` of the positions that were asked for.
    ///
    /// # Errors
    /// Logits that are not finite; a tokenizer that cannot decode.
    pub(super) fn advance(
        &mut self,
        model: &Model,
        tokenizer: &Tokenizer,
        count: usize,
        logits: &mut [f32],
    ) -> Result<()> {
        let first = self.cached;
        self.cached += count;
        let vocab = model.vocab_size().unsigned_abs() as usize;
        if first < self.prompt {
            self.report_prompt(first, logits, vocab);
        }
        if self.pending() > 0 {
            return Ok(());
        }
        let proposals = mem::take(&mut self.draft.proposals);
        let rows = logits.len() / vocab - (proposals.len() + 1);
        let mut read = self.cached;
        for (index, row) in logits.chunks_exact_mut(vocab).skip(rows).enumerate() {
            self.sample(tokenizer, row)?;
            // What follows a proposal counts only if the proposal is what was sampled.
            if self.finish.is_some() || proposals.get(index) != self.tokens.last() {
                break;
            }
            read += 1;
        }
        let unused = (self.cached + proposals.len() - read) as i32;
        self.cached = read;
        let mut is_whole = true;
        if unused > 0
            && let Some(cache) = &mut self.cache
        {
            is_whole = cache.positions().is_some_and(|len| cache.truncate(len - unused));
        }
        // What is cached has the rotations of shorter texts.
        if self.finish.is_none() && (!is_whole || model.invalidates_cache(self.tokens.len() as i32)) {
            self.restart(model)?;
        }
        Ok(())
    }

    /// Number of tokens that are not in the cache yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Whether all but the last token are in the cache.
    pub(super) fn decodes(&self) -> bool {
        self.pending() == 1 && self.tokens.len() > self.prompt
    }

    /// Samples the next token from `logits`, `[vocab]`.
    ///
    /// # Errors
    /// Logits that are not finite; a tokenizer that cannot decode.
    fn sample(&mut self, tokenizer: &Tokenizer, logits: &mut [f32]) -> Result<()> {
        // Reported before anything changes them.
        let report = self.config.logprobs.map(|top| (logits.to_vec(), top));
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(logits, tokenizer.eos_ids())?;
        }
        let token = self.sampler.next(logits, &self.tokens, self.prompt)?;
        if let Some((logits, top)) = report {
            self.logprobs.push(TokenLogProbability::of(token, &logits, top));
        }
        self.tokens.push(token);
        self.new_tokens.push(token);
        if !self.config.ignore_eos && tokenizer.eos_ids().contains(&token) {
            return self.end(tokenizer, FinishReason::Stop);
        }
        let piece = self.stream.push(tokenizer, token)?;
        self.text += &self.stops.push(&piece);
        if self.stops.hit() {
            self.finish = Some(FinishReason::Stop);
        } else if self.constraint.as_mut().map(|constraint| constraint.accept(token)).transpose()?
            == Some(true)
        {
            self.end(tokenizer, FinishReason::Stop)?;
        } else if self.tokens.len() - self.prompt >= self.config.max_tokens {
            self.end(tokenizer, FinishReason::Length)?;
        }
        Ok(())
    }

    /// Reports log-probabilities of prompt tokens: `logits` are those after the tokens from number `first` on,
    /// `[tokens, vocab]`.
    fn report_prompt(&mut self, first: usize, logits: &[f32], vocab: usize) {
        let Some(top) = self.config.prompt_logprobs else { return };
        let next = &self.tokens[first + 1..self.prompt];
        let rows = next.iter().zip(logits.chunks_exact(vocab));
        self.prompt_logprobs.extend(rows.map(|(&id, row)| TokenLogProbability::of(id, row, top)));
    }

    /// Releases the text that was held back.
    fn end(&mut self, tokenizer: &Tokenizer, reason: FinishReason) -> Result<()> {
        self.finish = Some(reason);
        let rest = self.stream.finish(tokenizer)?;
        self.text += &self.stops.push(&rest);
        self.text += &self.stops.finish();
        Ok(())
    }

    /// Ends with an error.
    pub(super) fn fail(&mut self, error: Error) {
        (self.finish, self.error) = (Some(FinishReason::Error), Some(error));
    }

    /// What happened since the last event; `None` if nothing did.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        if self.new_tokens.is_empty() && self.finish.is_none() {
            return None;
        }
        Some(Event {
            id: self.id,
            text: mem::take(&mut self.text),
            tokens: mem::take(&mut self.new_tokens),
            logprobs: mem::take(&mut self.logprobs),
            prompt_logprobs: mem::take(&mut self.prompt_logprobs),
            finish_reason: self.finish,
            error: self.error.take(),
            prompt_tokens: self.prompt,
            cached_tokens: self.reused,
            generated_tokens: self.tokens.len() - self.prompt,
        })
    }
}
