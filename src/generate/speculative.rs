//! Speculative decoding (<https://arxiv.org/abs/2211.17192>): a small model proposes tokens, which the model itself then
//! reads in one pass. A proposal is kept if it is what the sampler takes from the model's own logits, so that texts are
//! those of the model alone.

use super::replay::{Part, Replay};
use super::sequence::Sequence;
use crate::models::Model;
use crate::nn::LayerCache;
use crate::{Error, Result};

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
