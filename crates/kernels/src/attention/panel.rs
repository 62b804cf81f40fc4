//! Sizes of a call, and panels of queries, the unit of work of all kernels.
//!
//! The heads of a group share their keys, so for one key/value head they are rows of one matrix, row
//! `time · group + head`. A panel is up to [`PANEL`] such rows, transposed so that SIMD vectors run along queries: the
//! softmax over keys then needs no reductions within a vector.

use std::ops::Range;

use super::product::LANES;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::{exp, tanh};

/// Rows of a panel.
pub(super) const PANEL: usize = 64;

/// Keys per block; with [`PANEL`] queries the scores fill half of the first-level cache.
pub(super) const KEYS: usize = 64;

/// Sizes and options of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions in the buffers of keys and values.
    pub capacity: usize,
    /// Positions in use.
    pub keys: usize,
    pub scale: f32,
    /// Softcap of the scores.
    pub softcap: Option<f32>,
    /// Whether a query sees no key after its position.
    pub is_causal: bool,
    /// Size of the attention window, including the query's own position.
    pub window: usize,
}

/// One key/value head of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub batch: usize,
    pub kv_head: usize,
}

/// Operands: `q` `[batch, time, heads, head_dim]`, `k` and `v` `[batch, capacity, kv_heads, head_dim]`, and
/// perhaps the first key that each query sees, `[batch, time]`, and one more score per head, `[heads]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, T> {
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
    pub starts: Option<&'a [i32]>,
    pub sinks: Option<&'a [f32]>,
}

impl<T> Inputs<'_, T> {
    /// The logarithm of the denominator of a softmax, and what the sum of weighted values is multiplied by. Weights,
    /// `weight` in all, are relative to a score of `row_max`; `head` counts those of one query.
    pub(super) fn normalizer(&self, head: usize, row_max: f32, weight: f32) -> (f32, f32) {
        // A query that sees nothing gets zeros, and later weights exp(x - ∞) = 0.
        if weight <= 0.0 {
            return (f32::INFINITY, 0.0);
        }
        let Some(sinks) = self.sinks else { return (row_max + weight.ln(), weight.recip()) };
        let top = row_max.max(sinks[head]);
        let own = exp(row_max - top);
        let all = weight * own + exp(sinks[head] - top);
        (top + all.ln(), own / all)
    }
}

impl Geometry {
    pub(super) fn places(&self) -> usize {
        self.batch * self.kv_heads
    }

    pub(super) fn place(&self, index: usize) -> Place {
        Place { batch: index / self.kv_heads, kv_head: index % self.kv_heads }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Rows of queries of one place.
    pub(super) fn rows(&self) -> usize {
        self.time * self.group()
    }

    pub(super) fn panels(&self) -> usize {
        self.rows().div_ceil(PANEL)
    }

    /// Rows of `panel`.
    pub(super) fn panel(&self, panel: usize) -> Range<usize> {
        panel * PANEL..self.rows().min((panel + 1) * PANEL)
    }

    /// Rows that panels are padded to.
    pub(super) fn columns(&self) -> usize {
        self.rows().next_multiple_of(LANES).min(PANEL)
    }

    /// Numbers that a head is padded to.
    pub(super) fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Index of a row's head among all heads of all queries.
    pub(super) fn head(&self, place: Place, row: usize) -> usize {
        let (time, head) = (row / self.group(), row % self.group());
        (place.batch * self.time + time) * self.heads + place.kv_head * self.group() + head
    }

    /// Which head of its query a row is.
    pub(super) fn head_of_query(&self, place: Place, row: usize) -> usize {
        place.kv_head * self.group() + row % self.group()
    }

    /// Index of a key's head among all heads of all keys.
    pub(super) fn key(&self, place: Place, key: usize) -> usize {
        (place.batch * self.capacity + key) * self.kv_heads + place.kv_head
    }

    /// Keys that `row` attends to.
    pub(super) fn visible(&self, starts: Option<&[i32]>, place: Place, row: usize) -> Range<usize> {
        let time = row / self.group();
        let end = if self.is_causal { self.keys - self.time + time + 1 } else { self.keys };
        let start = starts.map_or(0, |starts| starts[place.batch * self.time + time].max(0) as usize);
        start.max(end.saturating_sub(self.window)).min(end)..end
    }

    /// Keys that the rows of `panel` attend to.
    pub(super) fn view(&self, starts: Option<&[i32]>, place: Place, panel: usize) -> Visibility {
        let mut view = Visibility {
            first: [0; PANEL],
            end: [0; PANEL],
            any: Range { start: usize::MAX, end: 0 },
            all: 0..usize::MAX,
        };
        for (column, row) in self.panel(panel).enumerate() {
            let Range { start, end } = self.visible(starts, place, row);
            (view.first[column], view.end[column]) = (start as i32, end as i32);
            view.any = view.any.start.min(start)..view.any.end.max(end);
            view.all = view.all.start.max(start)..view.all.end.min(end);
        }
        view
    }

    /// Copies the heads of `keys` as rows of f32.
    pub(super) fn read_keys<T: Element>(
        &self,
        isa: Isa,
        from: &[T],
        place: Place,
        keys: Range<usize>,
        wide: &mut [f32],
    ) {
        let stride = self.kv_heads * self.head_dim;
        let first = self.key(place, keys.start) * self.head_dim;
        let from = if keys.is_empty() { &[] } else { &from[first..] };
        read_rows(isa, from, stride, keys.len(), self.head_dim, self.padded(), wide);
    }

    /// Copies the heads of the rows of `panel` as rows of f32, zeros to the end of `wide`.
    pub(super) fn read_panel<T: Element>(
        &self,
        isa: Isa,
        from: &[T],
        place: Place,
        panel: usize,
        wide: &mut [f32],
    ) {
        let padded = self.padded();
        let rows = self.panel(panel);
        wide[rows.len() * padded..].fill(0.0);
        for (row, wide) in rows.zip(wide.chunks_exact_mut(padded)) {
            let from = &from[self.head(place, row) * self.head_dim..][..self.head_dim];
            read_rows(isa, from, 0, 1, self.head_dim, padded, wide);
        }
    }
}

/// Keys that the rows of a panel attend to.
pub(super) struct Visibility {
    /// First key of each row, and the one after its last.
    pub first: [i32; PANEL],
    pub end: [i32; PANEL],
    /// Union over all rows.
    pub any: Range<usize>,
    /// Intersection over all rows.
    pub all: Range<usize>,
}

impl Visibility {
    /// Sets masked scores to -∞; rows of `scores` are `keys`.
    pub(super) fn mask_out(&self, isa: Isa, keys: Range<usize>, scores: &mut [f32], columns: usize) {
        if keys.start < self.all.start || keys.end > self.all.end {
            mask_out(isa, scores, columns, keys.start as i32, &self.first, &self.end);
        }
    }

    /// The keys of the block that starts at `block` which some row sees, within `keys`.
    pub(super) fn block(&self, block: usize, keys: &Range<usize>) -> Range<usize> {
        let start = block.max(self.any.start).max(keys.start);
        let end = (block + KEYS).min(self.any.end).min(keys.end);
        start.min(end)..end
    }
}

/// Starts of the blocks that hold `keys`; blocks start at multiples of [`KEYS`], whoever asks.
pub(super) fn blocks(keys: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    (keys.start / KEYS * KEYS..keys.end).step_by(KEYS)
}

vectorized! {
    fn read_rows<T: Element>(
        from: &[T], stride: usize, rows: usize, len: usize, padded: usize, wide: &mut [f32],
    ) {
        for (i, wide) in wide.chunks_exact_mut(padded).take(rows).enumerate() {
            T::widen(&from[i * stride..][..len], &mut wide[..len]);
            wide[len..].fill(0.0);
        }
    }

    /// Multiplies every number by `factor`.
    pub(super) fn multiply(numbers: &mut [f32], factor: f32) {
        for x in numbers {
            *x *= factor;
        }
    }

    /// Applies the softcap to scores.
    pub(super) fn apply_softcap(scores: &mut [f32], cap: f32) {
        let steepness = cap.recip();
        for x in scores {
            *x = cap * tanh(*x * steepness);
        }
    }

    fn mask_out(scores: &mut [f32], columns: usize, first_key: i32, first: &[i32; PANEL], end: &[i32; PANEL]) {
        for (key, scores) in (first_key..).zip(scores.chunks_exact_mut(columns)) {
            for ((x, &first), &end) in scores.iter_mut().zip(first).zip(end) {
                *x = if key >= first && key < end { *x } else { f32::NEG_INFINITY };
            }
        }
    }

    /// Transposes `columns` rows of length `padded` into `len` rows of length `columns`.
    pub(super) fn transpose(rows: &[f32], padded: usize, len: usize, columns: usize, transposed: &mut [f32]) {
        for start in (0..columns).step_by(LANES) {
            for (i, transposed) in transposed.chunks_exact_mut(columns).take(len).enumerate() {
                let numbers: [f32; LANES] = std::array::from_fn(|j| rows[(start + j) * padded + i]);
                transposed[start..start + LANES].copy_from_slice(&numbers);
            }
        }
    }

    /// Writes a row of f32 in the format of the result.
    pub(super) fn write<T: Element>(wide: &[f32], row: &mut [T]) {
        T::narrow(&wide[..row.len()], row);
    }
}
