//! Adapters that differ by row, so that sequences with different ones are continued in one pass
//! ([S-LoRA](https://arxiv.org/abs/2311.03285)): a row gets the low-rank updates of its adapter in place of those that
//! are attached to the layers.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use twox_hash::xxhash3_128::Hasher;

use super::Result;
use crate::kernels::linear::LowRank;
use crate::kernels::row_updates::{Magnitude, RowUpdate, update_rows};
use crate::params::digest;

/// What an adapter adds to one linear layer.
#[derive(Debug, Clone)]
pub struct LayerUpdate {
    /// `A`, `[in, rank]`.
    pub a: Array,
    /// `B`, `[rank, out]`.
    pub b: Array,
    /// `s`
    pub scale: f32,
    /// Factor of each output, of an adapter with [magnitudes](super::linear::dora): `[out]`.
    pub factor: Option<Array>,
}

/// An adapter for some rows of a pass.
#[derive(Debug)]
pub struct RowAdapter {
    id: u64,
    /// By key path; arrays may be used by one thread at a time.
    layers: Mutex<HashMap<String, LayerUpdate>>,
}

impl RowAdapter {
    /// `id` identifies the weights of the model with this adapter, and `layers` are updates by the key path of their layer.
    #[must_use]
    pub fn new(id: u64, layers: HashMap<String, LayerUpdate>) -> Self {
        Self { id, layers: Mutex::new(layers) }
    }

    /// Identifies the weights of the model with this adapter.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// All arrays.
    #[must_use]
    pub fn arrays(&self) -> Vec<Array> {
        let layers = self.layers();
        let arrays =
            layers.values().flat_map(|update| [&update.a, &update.b].into_iter().chain(&update.factor));
        arrays.cloned().collect()
    }

    /// Identifies the content of the adapter on a model whose [fingerprint](super::fingerprint::fingerprint) is `base`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn fingerprint(&self, base: u128) -> crate::Result<u128> {
        let mut hasher = Hasher::new();
        hasher.write(&base.to_le_bytes());
        let layers = self.layers();
        for (path, LayerUpdate { a, b, scale, factor }) in layers.iter().collect::<BTreeMap<_, _>>() {
            for matrix in [a, b].into_iter().chain(factor) {
                digest(&mut hasher, path, matrix)?;
            }
            hasher.write(&scale.to_bits().to_le_bytes());
        }
        Ok(hasher.finish_128())
    }

    fn layers(&self) -> MutexGuard<'_, HashMap<String, LayerUpdate>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// Adapters of the rows of the pass that this thread builds.
    static CURRENT: RefCell<Option<Rc<RowAdapters>>> = const { RefCell::new(None) };
}

/// The adapters of all rows of a pass; `None` for what is attached to the layers.
#[derive(Debug, Clone, Default)]
pub struct RowAdapters {
    /// Numbers of rows that follow each other, with their adapter.
    runs: Vec<(usize, Option<Arc<RowAdapter>>)>,
}

/// A linear layer whose outputs are updated.
pub(super) struct Target<'a> {
    /// Key path.
    pub path: &'a str,
    pub bias: Option<&'a Array>,
    /// What is attached to it.
    pub attached: Option<LayerUpdate>,
}

impl RowAdapters {
    /// `runs`: numbers of rows, in order, each with its adapter.
    #[must_use]
    pub fn new(runs: impl IntoIterator<Item = (usize, Option<Arc<RowAdapter>>)>) -> Self {
        let mut joined: Vec<(usize, Option<Arc<RowAdapter>>)> = Vec::new();
        let id = |adapter: &Option<Arc<RowAdapter>>| adapter.as_ref().map(|adapter| adapter.id);
        for (count, adapter) in runs {
            match joined.last_mut() {
                Some((total, last)) if id(last) == id(&adapter) => *total += count,
                _ if count > 0 => joined.push((count, adapter)),
                _ => {}
            }
        }
        Self { runs: joined }
    }

    /// Calls `build`; layers that it applies on this thread have rows with these adapters.
    pub fn scope<R>(self, build: impl FnOnce() -> R) -> R {
        /// Puts the old value back, also when `build` panics.
        struct Restore(Option<Rc<RowAdapters>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let is_needed = self.runs.iter().any(|(_, adapter)| adapter.is_some());
        let _restore = Restore(CURRENT.replace(is_needed.then(|| Rc::new(self))));
        build()
    }

    /// Those of the innermost enclosing [`scope`](Self::scope), if rows have any.
    pub(super) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Those of some `rows`.
    pub(super) fn select(&self, rows: &[u32]) -> Self {
        let all: Vec<&Option<Arc<RowAdapter>>> =
            self.runs.iter().flat_map(|(count, adapter)| std::iter::repeat_n(adapter, *count)).collect();
        Self::new(rows.iter().map(|&row| (1, all.get(row as usize).copied().cloned().flatten())))
    }

    /// Whether some rows have what is attached to the layers.
    pub(super) fn keeps_attached(&self) -> bool {
        self.runs.iter().any(|(_, adapter)| adapter.is_none())
    }

    /// Applies the updates of each row to `outputs`, those of `targets` for `x` without any update.
    ///
    /// # Errors
    /// Another number of rows; an update that does not fit its layer.
    pub(super) fn update(&self, x: &Array, outputs: Vec<Array>, targets: &[Target]) -> Result<Vec<Array>> {
        let rows = x.size() / x.dim(-1).unsigned_abs().max(1) as usize;
        let known: usize = self.runs.iter().map(|(count, _)| count).sum();
        if rows != known {
            return Err(Exception::custom(format!("{rows} rows, and adapters for {known}")));
        }
        let mut found: Vec<(usize, Range<usize>, LayerUpdate)> = Vec::new();
        let mut start = 0;
        for (count, adapter) in &self.runs {
            let rows = start..start + count;
            start = rows.end;
            let layers = adapter.as_ref().map(|adapter| adapter.layers());
            for (layer, target) in targets.iter().enumerate() {
                let update = match &layers {
                    Some(layers) => layers.get(target.path).cloned(),
                    None => target.attached.clone(),
                };
                found.extend(update.map(|update| (layer, rows.clone(), update)));
            }
        }
        if found.is_empty() {
            return Ok(outputs);
        }
        let updates: Vec<RowUpdate> = (found.iter())
            .map(|(layer, rows, LayerUpdate { a, b, scale, factor })| RowUpdate {
                layer: *layer,
                rows: rows.clone(),
                low_rank: LowRank { a, b, scale: *scale },
                magnitude: factor.as_ref().map(|factor| Magnitude { factor, bias: targets[*layer].bias }),
            })
            .collect();
        update_rows(x, &outputs, &updates)
    }
}
