//! Forward pass: online softmax over blocks of keys
//! ([FlashAttention](https://arxiv.org/abs/2205.14135)), and in parallel over parts of a long context
//! ([Flash-Decoding](https://princeton-nlp.github.io/flash-decoding/)).

use std::ops::Range;

use super::decode;
use super::panel::{self, Geometry, Inputs, KEYS, PANEL, Place, Visibility};
use super::product::{Left, Result, Right, product};
use super::vector::Load;
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::exp;
use crate::runtime::pool;
use crate::runtime::scratch;

/// Maximum number of panels per task; they share the converted keys.
const PANELS: usize = 4;

/// Minimum number of keys per part of a context.
const PART: usize = 512;

/// Multiply-adds below which waking other threads costs more than it saves.
const SERIAL_BELOW: usize = 1 << 20;

/// Fills `out`, as `q`, and `logsumexps`, `[batch, time, heads]`: the logsumexp of the scores.
pub(crate) fn forward<T: Load>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    out: &mut [T],
    logsumexps: &mut [f32],
) {
    if decode::takes(geometry) {
        return decode::forward(isa, geometry, inputs, out, logsumexps);
    }
    let plan = Plan::new(geometry, pool::threads());
    let (out, logsumexps) = (Disjoint::new(out), Disjoint::new(logsumexps));
    let finish = |place: Place, panel: usize, state: &mut [f32]| {
        finish(isa, geometry, inputs, place, panel, state, (&out, &logsumexps));
    };
    if plan.parts == 1 {
        plan.run(geometry.places() * plan.tiles, |index| {
            // The last queries see the most keys: the long tasks come first.
            let (place, tile) = (geometry.place(index / plan.tiles), plan.tiles - 1 - index % plan.tiles);
            let panels = plan.panels(geometry, tile);
            let mut states = scratch::take::<f32>(panels.len() * state_len(geometry));
            attend(isa, geometry, inputs, place, panels.clone(), 0..geometry.keys, &mut states);
            for (panel, state) in panels.zip(states.chunks_exact_mut(state_len(geometry))) {
                finish(place, panel, state);
            }
        });
        return;
    }
    // Every part of the keys has states of its own, joined when all are there.
    let len = plan.tile * state_len(geometry);
    let count = geometry.places() * plan.tiles;
    let mut states = scratch::take::<f32>(count * plan.parts * len);
    let shared = Disjoint::new(&mut states);
    plan.run(count * plan.parts, |index| {
        let (tile, part) = (index / plan.parts, index % plan.parts);
        let panels = plan.panels(geometry, tile % plan.tiles);
        let step = geometry.keys.div_ceil(plan.parts).next_multiple_of(KEYS);
        let keys = (part * step).min(geometry.keys)..((part + 1) * step).min(geometry.keys);
        // SAFETY: every index has a part of its own.
        let states = unsafe { shared.part(index * len..(index + 1) * len) };
        attend(isa, geometry, inputs, geometry.place(tile / plan.tiles), panels, keys, states);
    });
    for (tile, states) in states.chunks_exact_mut(len * plan.parts).enumerate() {
        let (first, others) = states.split_at_mut(len);
        let panels = plan.panels(geometry, tile % plan.tiles);
        for (i, panel) in panels.enumerate() {
            let state = |states: usize| states * len + i * state_len(geometry);
            let joined = &mut first[state(0)..][..state_len(geometry)];
            for part in 0..plan.parts - 1 {
                join(geometry, joined, &others[state(part)..][..state_len(geometry)]);
            }
            finish(geometry.place(tile / plan.tiles), panel, joined);
        }
    }
}

/// Partition of a call into tasks.
struct Plan {
    /// Panels of a task.
    tile: usize,
    /// Tasks of a place.
    tiles: usize,
    /// Parts that the keys of a task are cut into.
    parts: usize,
    serial: bool,
}

impl Plan {
    fn new(geometry: &Geometry, threads: usize) -> Self {
        let count = |tile: usize| geometry.places() * geometry.panels().div_ceil(tile);
        // Twice as many tasks as threads, as they are of unequal length.
        let tile = (1..=PANELS).rev().find(|&tile| count(tile) >= 2 * threads).unwrap_or(1);
        let work =
            geometry.places() * geometry.panels() * geometry.columns() * geometry.keys * geometry.head_dim;
        let serial = work < SERIAL_BELOW || threads == 1;
        let parts = if serial || count(tile) >= threads {
            1
        } else {
            (2 * threads).div_ceil(count(tile).max(1)).min(geometry.keys / PART).max(1)
        };
        Self { tile, tiles: geometry.panels().div_ceil(tile), parts, serial }
    }

    fn panels(&self, geometry: &Geometry, tile: usize) -> Range<usize> {
        tile * self.tile..((tile + 1) * self.tile).min(geometry.panels())
    }

    fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        if self.serial { (0..count).for_each(task) } else { pool::parallel_for(count, task) }
    }
}

/// Length of a panel's state: the weighted sum of values, `[columns, padded]`, then per row the maximum score and the
/// sum of weights relative to it.
fn state_len(geometry: &Geometry) -> usize {
    geometry.columns() * (geometry.padded() + 2)
}

fn split_state<'a>(
    geometry: &Geometry,
    state: &'a mut [f32],
) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
    let (sums, rest) = state.split_at_mut(geometry.columns() * geometry.padded());
    let (row_max, weights) = rest.split_at_mut(geometry.columns());
    (sums, row_max, weights)
}

/// Computes the states of `panels` over `keys`.
fn attend<T: Element>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    place: Place,
    panels: Range<usize>,
    keys: Range<usize>,
    states: &mut [f32],
) {
    let (columns, padded, head_dim) = (geometry.columns(), geometry.padded(), geometry.head_dim);
    let views: Vec<Visibility> =
        panels.clone().map(|panel| geometry.view(inputs.starts, place, panel)).collect();
    let mut buffer = scratch::take::<f32>(
        2 * KEYS * padded + (KEYS + 1) * columns + columns * padded + views.len() * head_dim * columns,
    );
    let (k, rest) = buffer.split_at_mut(KEYS * padded);
    let (v, rest) = rest.split_at_mut(KEYS * padded);
    let (scores, rest) = rest.split_at_mut(KEYS * columns);
    let (rescale, rest) = rest.split_at_mut(columns);
    let (wide, queries) = rest.split_at_mut(columns * padded);
    for (panel, queries) in panels.zip(queries.chunks_exact_mut(head_dim * columns)) {
        geometry.read_panel(isa, inputs.q, place, panel, wide);
        panel::multiply(isa, wide, geometry.scale);
        panel::transpose(isa, wide, padded, head_dim, columns, queries);
    }
    for state in states.chunks_exact_mut(state_len(geometry)) {
        let (sums, row_max, weights) = split_state(geometry, state);
        sums.fill(0.0);
        row_max.fill(f32::NEG_INFINITY);
        weights.fill(0.0);
    }
    let any = views.iter().fold(keys.end..keys.start, |any, view| {
        any.start.min(view.any.start.max(keys.start))..any.end.max(view.any.end.min(keys.end))
    });
    for block in panel::blocks(&any) {
        let read = block.max(any.start)..(block + KEYS).min(any.end);
        geometry.read_keys(isa, inputs.k, place, read.clone(), k);
        geometry.read_keys(isa, inputs.v, place, read.clone(), v);
        let panels =
            queries.chunks_exact(head_dim * columns).zip(states.chunks_exact_mut(state_len(geometry)));
        for (view, (queries, state)) in views.iter().zip(panels) {
            let seen = view.block(block, &keys);
            if seen.is_empty() {
                continue;
            }
            let skipped = (seen.start - read.start) * padded;
            let scores = &mut scores[..seen.len() * columns];
            product(
                isa,
                [seen.len(), columns, head_dim],
                Left { data: &k[skipped..], row: padded, column: 1 },
                Right { data: queries, row: columns },
                Result { data: scores, row: columns, add: false },
            );
            if let Some(cap) = geometry.softcap {
                panel::apply_softcap(isa, scores, cap);
            }
            view.mask_out(isa, seen.clone(), scores, columns);
            let (sums, row_max, weights) = split_state(geometry, state);
            if online_softmax(isa, scores, columns, row_max, weights, rescale) {
                for (sums, &rescale) in sums.chunks_exact_mut(padded).zip(&*rescale) {
                    if rescale < 1.0 {
                        panel::multiply(isa, sums, rescale);
                    }
                }
            }
            product(
                isa,
                [columns, padded, seen.len()],
                Left { data: scores, row: 1, column: columns },
                Right { data: &v[skipped..], row: padded },
                Result { data: sums, row: padded, add: true },
            );
        }
    }
}

vectorized! {
    /// Replaces scores, `[keys, columns]`, by weights relative to the running maximum of each column. `rescale` receives
    /// the correction factors of earlier weights; returns whether any differs from 1.
    fn online_softmax(
        scores: &mut [f32],
        columns: usize,
        row_max: &mut [f32],
        weights: &mut [f32],
        rescale: &mut [f32],
    ) -> bool {
        let mut tops = [f32::NEG_INFINITY; PANEL];
        let tops = &mut tops[..columns];
        tops.copy_from_slice(row_max);
        for scores in scores.chunks_exact(columns) {
            for (top, &x) in tops.iter_mut().zip(scores) {
                *top = if x > *top { x } else { *top };
            }
        }
        let mut moved = 0.0;
        let states = row_max.iter_mut().zip(rescale).zip(weights.iter_mut()).zip(&mut *tops);
        for (((row_max, rescale), weight), top) in states {
            let old = *row_max;
            *row_max = *top;
            // Where nothing was seen yet, any finite number will do.
            *top = if *top == f32::NEG_INFINITY { 0.0 } else { *top };
            *rescale = exp(old - *top);
            *weight *= *rescale;
            moved = if *rescale < 1.0 { 1.0 } else { moved };
        }
        for scores in scores.chunks_exact_mut(columns) {
            for ((x, &top), sum) in scores.iter_mut().zip(&*tops).zip(weights.iter_mut()) {
                *x = exp(*x - top);
                *sum += *x;
            }
        }
        moved > 0.0
    }
}

/// Merges the state `other` of the same panel into `state`.
fn join(geometry: &Geometry, state: &mut [f32], other: &[f32]) {
    let (columns, padded) = (geometry.columns(), geometry.padded());
    let (sums, row_max, weights) = split_state(geometry, state);
    for column in 0..columns {
        let (theirs, their_weights) =
            (other[columns * padded + column], other[columns * (padded + 1) + column]);
        let top = row_max[column].max(theirs);
        if top == f32::NEG_INFINITY {
            continue;
        }
        let (a, b) = (exp(row_max[column] - top), exp(theirs - top));
        row_max[column] = top;
        weights[column] = weights[column] * a + their_weights * b;
        let sums = &mut sums[column * padded..][..padded];
        for (x, &y) in sums.iter_mut().zip(&other[column * padded..]) {
            *x = *x * a + y * b;
        }
    }
}

/// Normalizes and writes the result of `panel`.
fn finish<T: Element>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    place: Place,
    panel: usize,
    state: &mut [f32],
    (out, logsumexps): (&Disjoint<T>, &Disjoint<f32>),
) {
    let (sums, row_max, weights) = split_state(geometry, state);
    for (column, row) in geometry.panel(panel).enumerate() {
        let sums = &mut sums[column * geometry.padded()..][..geometry.padded()];
        let head = geometry.head(place, row);
        // SAFETY: every row of every place is finished once, and has a head of its own.
        let (out, logsumexp) = unsafe {
            (
                out.part(head * geometry.head_dim..(head + 1) * geometry.head_dim),
                &mut logsumexps.part(head..head + 1)[0],
            )
        };
        let head = geometry.head_of_query(place, row);
        let (logarithm, factor) = inputs.normalizer(head, row_max[column], weights[column]);
        *logsumexp = logarithm;
        panel::multiply(isa, sums, factor);
        panel::write(isa, sums, out);
    }
}
