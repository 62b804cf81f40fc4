//! Speculative decoding (<https://arxiv.org/abs/2211.17192>): a small model proposes tokens, which the model itself then
//! reads in one pass. A proposal is kept if it is what the sampler takes from the model's own logits, so that texts are
//! those of the model alone.

use super::replay::{Part, Replay};
use super::sequence::Sequence;
use crate::models::Model;
use crate::nn::LayerCache;
use crate::{Error, Result};

/// Tokens that the small model reads at once.
const CHUNK: usize = 512;

/// Proposes tokens by greedy decoding.
#[derive(Default)]
pub(super) struct Drafter {
    replay: Replay,
}

/// Checks that `draft` can propose tokens for `model`.
///
/// # Errors
/// Vocabularies of different sizes; a model whose state cannot be cut after proposals that were wrong.
pub fn check(model: &Model, draft: &Model) -> Result<()> {
    let (size, draft_size) = (model.vocab_size(), draft.vocab_size());
    if size != draft_size {
        return Err(Error::Config(format!(
            "the draft model has {draft_size} tokens and the model {size}: they must have the same vocabulary"
        )));
    }
    for (name, model) in [("model", model), ("draft model", draft)] {
        if model.new_cache(0)?.layers.iter().any(|layer| matches!(layer, LayerCache::Conv(_))) {
            return Err(Error::Config(format!(
                "the {name} has short convolutions, whose state cannot return to an earlier token: speculative decoding \
                 needs attention in all layers"
            )));
        }
    }
    Ok(())
}

impl Drafter {
    /// Gives each of `sequences` up to `count` proposals, fewer where it ends before.
    ///
    /// # Errors
    /// Errors from kernels and from MLX.
    pub(super) fn propose(
        &mut self,
        draft: &Model,
        sequences: &mut [&mut Sequence],
        count: usize,
    ) -> Result<()> {
        let vocab = draft.vocab_size().unsigned_abs() as usize;
        for sequence in sequences.iter_mut() {
            sequence.draft.begin(draft, &sequence.tokens)?;
        }
        loop {
            let mut parts: Vec<Part> = Vec::new();
            let mut chosen = Vec::new();
            for (index, sequence) in sequences.iter_mut().enumerate() {
                // The last sampled token of the pass is not proposed.
                let wanted = count.min(sequence.left().saturating_sub(1));
                if sequence.draft.proposals.len() < wanted
                    && let Some(part) = sequence.draft.part(draft, sequence.id)
                {
                    chosen.push((index, part.tokens.len(), part.wanted));
                    parts.push(part);
                }
            }
            if parts.is_empty() {
                return Ok(());
            }
            let logits = self.replay.run(draft, &mut parts)?;
            let mut rows = logits.chunks_exact(vocab);
            for (index, read, wanted) in chosen {
                let draft = &mut sequences[index].draft;
                draft.read += read;
                if wanted == 1
                    && let Some(row) = rows.next()
                {
                    let best = (0..).zip(row).fold((0, f32::NEG_INFINITY), |best, (id, &logit)| {
                        if logit > best.1 { (id, logit) } else { best }
                    });
                    draft.proposals.push(best.0);
                    draft.tokens.push(best.0);
                }
            }
        }
    }
}

/// What the small model has read of a text, and proposes.
#[derive(Debug, Default)]
pub(super) struct Draft {
    cache: Option<crate::nn::Cache>,
    /// The text, then proposals.
    tokens: Vec<u32>,
    /// Number of tokens in the cache.
    read: usize,
    /// Number of positions before the first token.
    offset: i32,
    pub proposals: Vec<u32>,
}

impl Draft {
    /// Goes back to `tokens`, without proposals.
    fn begin(&mut self, draft: &Model, tokens: &[u32]) -> Result<()> {
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.read = self.read.min(shared).min(tokens.len() - 1);
        let is_cut = |cache: &mut crate::nn::Cache| cache.truncate(self.offset + self.read as i32);
        if !self.cache.as_mut().is_some_and(is_cut) {
            let cache = draft.new_cache(tokens.len() as i32)?;
            (self.offset, self.read) = (cache.len().unwrap_or(0), 0);
            self.cache = Some(cache);
        }
        self.tokens = tokens.to_vec();
        self.proposals.clear();
        Ok(())
    }

    /// The next tokens to read.
    fn part(&mut self, draft: &Model, id: u64) -> Option<Part<'_>> {
        let end = self.tokens.len().min(self.read + CHUNK);
        let length = end as i32;
        Some(Part {
            id,
            cache: self.cache.as_mut()?,
            tokens: &self.tokens[self.read..end],
            wanted: usize::from(end == self.tokens.len()),
            is_steady: draft.rotation_variant(length) == draft.rotation_variant(length - 1),
        })
    }
}
