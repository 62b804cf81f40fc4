//! Forward passes for generation. Passes of one token per sequence are recorded, and replayed while the sequences stay
//! the same.

use std::sync::Arc;

use mlx_rs::{Array, Dtype};

use crate::kernels::tape::{Tape, record};
use crate::models::Model;
use crate::nn::{Cache, RowAdapter, RowAdapters, Sequences};
use crate::{Result, kernels};

/// Passes of the same sequences before they are recorded: what is recorded holds its arrays, so that the caches of all
/// sequences are copied once.
const STEADY: usize = 8;

/// New tokens of a sequence.
#[derive(Debug)]
pub struct Part<'a> {
    /// Identifies the sequence.
    pub id: u64,
    /// Its adapter; `None` for what is attached to the model.
    pub adapter: Option<&'a Arc<RowAdapter>>,
    /// Its tokens so far.
    pub cache: &'a mut Cache,
    /// Tokens to append.
    pub tokens: &'a [u32],
    /// Number of last positions whose logits are asked for.
    pub wanted: usize,
    /// Whether its rotations are those of the position before.
    pub is_steady: bool,
}

/// Computes passes, and replays those that repeat.
#[derive(Default)]
pub struct Replay {
    /// Sequences and their adapters.
    keys: Vec<(u64, Option<u64>)>,
    /// Passes since the sequences changed.
    passes: usize,
    tape: Option<Tape>,
    is_unrecordable: bool,
}

impl Replay {
    /// Forgets the recording; the next pass may be the first of a recording again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether the next pass of the same sequences is replayed.
    #[cfg(test)]
    pub(super) fn is_recorded(&self) -> bool {
        self.tape.is_some()
    }

    /// Appends the tokens of all `parts` and returns the logits of the wanted positions, in order, `[positions, vocab]`.
    ///
    /// # Errors
    /// Errors from kernels and from MLX. The caches are then unusable.
    pub fn run(&mut self, model: &Model, parts: &mut [Part]) -> Result<Vec<f32>> {
        let is_single = |part: &Part| part.tokens.len() == 1 && part.wanted == 1 && part.is_steady;
        let is_repeated = parts.iter().all(is_single);
        let keys = || parts.iter().map(|part| (part.id, part.adapter.map(|adapter| adapter.id())));
        if !is_repeated || !keys().eq(self.keys.iter().copied()) {
            *self = Self { keys: keys().collect(), ..Self::default() };
        }
        let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        if let Some(tape) = &mut self.tape {
            if let Some(logits) = tape.run(&tokens)? {
                for part in parts {
                    part.cache.advance();
                }
                return Ok(logits);
            }
            // A cache has to grow, which only a new graph can do; it may take the memory that the tape held.
            self.tape = None;
        }
        self.passes += 1;
        let records = is_repeated && !self.is_unrecordable && (parts.len() == 1 || self.passes > STEADY);
        let ids = Array::from_slice(&tokens, &[1, tokens.len() as i32]);
        let wanted = wanted_rows(parts);
        if !records {
            let logits = forward(model, &ids, parts, &wanted)?;
            let logits = logits.map(|logits| logits.as_dtype(Dtype::Float32)).transpose()?;
            kernels::eval(logits.iter().chain(parts.iter().flat_map(|part| part.cache.arrays())))?;
            return Ok(logits.map(|logits| logits.as_slice::<f32>().to_vec()).unwrap_or_default());
        }
        let (logits, recording) = record(|| forward(model, &ids, parts, &wanted));
        let Some(logits) = logits? else { return Ok(Vec::new()) };
        let wide = logits.as_dtype(Dtype::Float32)?;
        kernels::eval([&wide, &logits].into_iter().chain(parts.iter().flat_map(|part| part.cache.arrays())))?;
        let parameters = model.parameters().flatten();
        let adapters: Vec<Array> =
            parts.iter().filter_map(|part| part.adapter).flat_map(|adapter| adapter.arrays()).collect();
        self.tape = recording.tape(&ids, parameters.values().copied().chain(&adapters), &logits);
        self.is_unrecordable = self.tape.is_none();
        Ok(wide.as_slice::<f32>().to_vec())
    }
}

/// Rows whose logits are asked for.
fn wanted_rows(parts: &[Part]) -> Vec<i32> {
    let mut end = 0;
    let rows = parts.iter().map(|part| {
        end += part.tokens.len();
        end - part.wanted..end
    });
    rows.flatten().map(|row| row as i32).collect()
}

/// `ids`: `[1, time]` → logits of the `wanted` rows, `[1, wanted, vocab]`; `None` if there are none.
fn forward(model: &Model, ids: &Array, parts: &mut [Part], wanted: &[i32]) -> Result<Option<Array>> {
    let counts: Vec<i32> = parts.iter().map(|part| part.tokens.len() as i32).collect();
    let of_tokens = RowAdapters::new(parts.iter().map(|part| (part.tokens.len(), part.adapter.cloned())));
    let of_wanted = RowAdapters::new(parts.iter().map(|part| (part.wanted, part.adapter.cloned())));
    let caches = parts.iter_mut().map(|part| &mut *part.cache).collect();
    let sequences = Sequences { caches, counts: &counts };
    let hidden = of_tokens.scope(|| model.hidden_each(ids, sequences))?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let is_all = wanted.len() == ids.dim(1).unsigned_abs() as usize;
    let rows = if is_all {
        hidden
    } else {
        hidden.take_axis(Array::from_slice(wanted, &[wanted.len() as i32]), 1)?
    };
    Ok(Some(of_wanted.scope(|| model.logits(&rows))?))
}
