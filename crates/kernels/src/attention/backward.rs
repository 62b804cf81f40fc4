//! Backward pass: attention weights are recomputed from the scores and their logsumexp, a block of keys at a
//! time ([FlashAttention](https://arxiv.org/abs/2205.14135), section 3.1).
//!
//! With P the weights, δ = Σ dO·O and S the scaled scores: dV = Pᵀ·dO, dS = P∘(dO·Vᵀ - δ),
//! dK = scale·dSᵀ·Q, dQ = scale·dS·K. With a softcap `c`, dS is multiplied by `1 - (S/c)²`.

use std::ops::Range;

use super::panel::{self, Geometry, Inputs, KEYS, PANEL, Place, Visibility};
use super::product::{LANES, Left, Result, Right, product};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::exp;
use crate::runtime::pool;
use crate::runtime::scratch;

/// Keys of a task that computes gradients of keys and values alone.
const STRIP: usize = 256;

/// Panels of a task that computes gradients of queries alone.
const TILE: usize = 4;

/// Results of the forward pass and the gradient of its output; `out` and `grad` in the shape of `q`.
#[derive(Clone, Copy)]
pub(super) struct SavedForBackward<'a, T> {
    pub out: &'a [T],
    pub logsumexps: &'a [f32],
    pub grad: &'a [T],
}

/// Gradients, each in the shape of its operand.
pub(super) struct Gradients<'a, T> {
    pub q: &'a mut [T],
    pub k: &'a mut [T],
    pub v: &'a mut [T],
}

/// Fills `gradients`.
pub(super) fn backward<T: Element>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    saved: &SavedForBackward<T>,
    gradients: Gradients<T>,
) {
    let (places, Gradients { q, k, v }) = (geometry.places(), gradients);
    let sweep =
        Sweep { isa, geometry, inputs, saved, q: Disjoint::new(q), k: Disjoint::new(k), v: Disjoint::new(v) };
    // One task per place computes five products; cut in two, the halves compute four and three. Few places
    // would leave threads idle by more than that.
    let threads = pool::threads();
    let rounds = places.div_ceil(threads);
    if rounds * threads * 5 <= places * 7 {
        return pool::parallel_for(places, |index| {
            let place = geometry.place(index);
            sweep.run(place, 0..geometry.panels(), 0..geometry.capacity, Part::Both);
        });
    }
    let (strips, tiles) = (geometry.capacity.div_ceil(STRIP), geometry.panels().div_ceil(TILE));
    pool::parallel_for(places * (strips + tiles), |index| {
        let (place, task) = (geometry.place(index / (strips + tiles)), index % (strips + tiles));
        if task < strips {
            let keys = task * STRIP..geometry.capacity.min((task + 1) * STRIP);
            sweep.run(place, 0..geometry.panels(), keys, Part::KeyValues);
        } else {
            // The last queries see the most keys.
            let tile = strips + tiles - 1 - task;
            let panels = tile * TILE..geometry.panels().min((tile + 1) * TILE);
            sweep.run(place, panels, 0..geometry.keys, Part::Queries);
        }
    });
}

/// Which gradients a sweep computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Both,
    Queries,
    KeyValues,
}

struct Sweep<'a, T> {
    isa: Isa,
    geometry: &'a Geometry,
    inputs: &'a Inputs<'a, T>,
    saved: &'a SavedForBackward<'a, T>,
    q: Disjoint<'a, T>,
    k: Disjoint<'a, T>,
    v: Disjoint<'a, T>,
}

/// A panel of queries, copied.
struct Queries<'a> {
    /// Scaled queries and the gradients of their results, `[columns, padded]`, and their transposes.
    q: &'a mut [f32],
    grad: &'a mut [f32],
    q_transposed: &'a mut [f32],
    grad_transposed: &'a mut [f32],
    logsumexps: [f32; PANEL],
    /// Σ dO·O of each row.
    delta: [f32; PANEL],
}

impl<T: Element> Sweep<'_, T> {
    /// Computes what `part` says from all pairs of `panels` and `keys`.
    fn run(&self, place: Place, panels: Range<usize>, keys: Range<usize>, part: Part) {
        let geometry = self.geometry;
        let (columns, padded, head_dim) = (geometry.columns(), geometry.padded(), geometry.head_dim);
        let used = keys.start..keys.end.min(geometry.keys).max(keys.start);
        let all = used.len() * padded;
        let wanted = if part == Part::Queries { 0 } else { all };
        let panel_len = columns * padded;
        let mut buffer = scratch::take::<f32>(
            2 * all + 2 * wanted + 2 * KEYS * columns + 3 * panel_len + 2 * head_dim * columns,
        );
        let mut rest: &mut [f32] = &mut buffer;
        let mut cut = |len: usize| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            part
        };
        let (k, v, dk, dv) = (cut(all), cut(all), cut(wanted), cut(wanted));
        let (weights, score_grads) = (cut(KEYS * columns), cut(KEYS * columns));
        let dq = cut(panel_len);
        let mut queries = Queries {
            q: cut(panel_len),
            grad: cut(panel_len),
            q_transposed: cut(head_dim * columns),
            grad_transposed: cut(head_dim * columns),
            logsumexps: [0.0; PANEL],
            delta: [0.0; PANEL],
        };
        geometry.read_keys(self.isa, self.inputs.k, place, used.clone(), k);
        geometry.read_keys(self.isa, self.inputs.v, place, used.clone(), v);
        dk.fill(0.0);
        dv.fill(0.0);
        for panel in panels {
            let view = geometry.view(self.inputs.starts, place, panel);
            let any = view.any.start.max(used.start)..view.any.end.min(used.end);
            if any.is_empty() && part == Part::KeyValues {
                continue;
            }
            self.read(place, panel, &mut queries, dq);
            dq.fill(0.0);
            for block in panel::blocks(&any) {
                let seen = view.block(block, &used);
                if seen.is_empty() {
                    continue;
                }
                let rows = (seen.start - used.start) * padded..(seen.end - used.start) * padded;
                let (weights, score_grads) =
                    (&mut weights[..seen.len() * columns], &mut score_grads[..seen.len() * columns]);
                // Both transposed: rows are keys.
                let pairs = |left: &[f32], right: &[f32], result: &mut [f32]| {
                    product(
                        self.isa,
                        [seen.len(), columns, head_dim],
                        Left { data: left, row: padded, column: 1 },
                        Right { data: right, row: columns },
                        Result { data: result, row: columns, add: false },
                    );
                };
                pairs(&k[rows.clone()], queries.q_transposed, weights);
                pairs(&v[rows.clone()], queries.grad_transposed, score_grads);
                self.score_gradients(&view, seen.clone(), &queries, weights, score_grads);
                if part != Part::Queries {
                    let add = |left: &[f32], right: &[f32], result: &mut [f32]| {
                        product(
                            self.isa,
                            [seen.len(), padded, columns],
                            Left { data: left, row: columns, column: 1 },
                            Right { data: right, row: padded },
                            Result { data: result, row: padded, add: true },
                        );
                    };
                    add(weights, queries.grad, &mut dv[rows.clone()]);
                    add(score_grads, queries.q, &mut dk[rows.clone()]);
                }
                if part != Part::KeyValues {
                    product(
                        self.isa,
                        [columns, padded, seen.len()],
                        Left { data: score_grads, row: 1, column: columns },
                        Right { data: &k[rows], row: padded },
                        Result { data: dq, row: padded, add: true },
                    );
                }
            }
            if part != Part::KeyValues {
                panel::multiply(self.isa, dq, geometry.scale);
                for (row, dq) in geometry.panel(panel).zip(dq.chunks_exact(padded)) {
                    self.write(&self.q, geometry.head(place, row), Some(dq));
                }
            }
        }
        if part != Part::Queries {
            for key in keys {
                // Room that is not in use has no gradient.
                let row =
                    used.contains(&key).then(|| (key - used.start) * padded..(key + 1 - used.start) * padded);
                let head = geometry.key(place, key);
                self.write(&self.k, head, row.clone().map(|row| &dk[row]));
                self.write(&self.v, head, row.map(|row| &dv[row]));
            }
        }
    }

    /// Products with the keys `seen` become weights, and products of gradient and value gradients of the former.
    fn score_gradients(
        &self,
        view: &Visibility,
        seen: Range<usize>,
        queries: &Queries,
        weights: &mut [f32],
        score_grads: &mut [f32],
    ) {
        let (isa, columns) = (self.isa, self.geometry.columns());
        let (logsumexps, delta) = (&queries.logsumexps, &queries.delta);
        if let Some(cap) = self.geometry.softcap {
            panel::apply_softcap(isa, weights, cap);
            view.mask_out(isa, seen, weights, columns);
            softcapped_score_gradients(isa, weights, score_grads, columns, logsumexps, delta, cap);
        } else {
            view.mask_out(isa, seen, weights, columns);
            score_gradients(isa, weights, score_grads, columns, logsumexps, delta);
        }
    }

    /// Copies the queries of `panel`; `spare` holds a panel.
    fn read(&self, place: Place, panel: usize, queries: &mut Queries, spare: &mut [f32]) {
        let (isa, geometry) = (self.isa, self.geometry);
        let (columns, padded, head_dim) = (geometry.columns(), geometry.padded(), geometry.head_dim);
        geometry.read_panel(isa, self.inputs.q, place, panel, queries.q);
        panel::multiply(isa, queries.q, geometry.scale);
        geometry.read_panel(isa, self.saved.grad, place, panel, queries.grad);
        geometry.read_panel(isa, self.saved.out, place, panel, spare);
        panel::transpose(isa, queries.q, padded, head_dim, columns, queries.q_transposed);
        panel::transpose(isa, queries.grad, padded, head_dim, columns, queries.grad_transposed);
        row_products(isa, queries.grad, spare, padded, &mut queries.delta);
        // Weights of the columns that pad a panel are zero.
        queries.logsumexps.fill(f32::INFINITY);
        for (column, row) in geometry.panel(panel).enumerate() {
            queries.logsumexps[column] = self.saved.logsumexps[geometry.head(place, row)];
        }
    }

    /// Writes one head of a gradient, zeros for none.
    fn write(&self, to: &Disjoint<T>, head: usize, numbers: Option<&[f32]>) {
        let len = self.geometry.head_dim;
        // SAFETY: every head of a gradient belongs to one place and one panel or strip.
        let to = unsafe { to.part(head * len..(head + 1) * len) };
        match numbers {
            Some(numbers) => panel::write(self.isa, numbers, to),
            None => to.fill(T::from_f32(0.0)),
        }
    }
}

vectorized! {
    /// Scores become weights, and products of gradient and value become gradients of the scores.
    fn score_gradients(
        weights: &mut [f32], score_grads: &mut [f32], columns: usize, logsumexps: &[f32; PANEL], delta: &[f32; PANEL],
    ) {
        let rows = weights.chunks_exact_mut(columns).zip(score_grads.chunks_exact_mut(columns));
        for (weights, score_grads) in rows {
            let numbers = weights.iter_mut().zip(score_grads).zip(logsumexps.iter().zip(delta));
            for ((weight, score_grad), (&logsumexp, &delta)) in numbers {
                *weight = exp(*weight - logsumexp);
                *score_grad = *weight * (*score_grad - delta);
            }
        }
    }

    /// The same of scores that were bounded by `cap`.
    fn softcapped_score_gradients(
        weights: &mut [f32], score_grads: &mut [f32], columns: usize, logsumexps: &[f32; PANEL], delta: &[f32; PANEL],
        cap: f32,
    ) {
        let steepness = cap.recip();
        let rows = weights.chunks_exact_mut(columns).zip(score_grads.chunks_exact_mut(columns));
        for (weights, score_grads) in rows {
            let numbers = weights.iter_mut().zip(score_grads).zip(logsumexps.iter().zip(delta));
            for ((weight, score_grad), (&logsumexp, &delta)) in numbers {
                // What is hidden is minus infinity, and has no slope.
                let height = if *weight > -cap { *weight * steepness } else { 1.0 };
                *weight = exp(*weight - logsumexp);
                *score_grad = *weight * (*score_grad - delta) * (1.0 - height * height);
            }
        }
    }

    /// Σ x·y of each row.
    fn row_products(x: &[f32], y: &[f32], len: usize, products: &mut [f32; PANEL]) {
        let rows = x.chunks_exact(len).zip(y.chunks_exact(len));
        for (product, (x, y)) in products.iter_mut().zip(rows) {
            let mut sums = [0.0; LANES];
            for (x, y) in x.as_chunks::<LANES>().0.iter().zip(y.as_chunks::<LANES>().0) {
                for i in 0..LANES {
                    sums[i] += x[i] * y[i];
                }
            }
            *product = sums.iter().sum();
        }
    }
}
