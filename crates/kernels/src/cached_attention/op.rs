//! The operation on the CPU: a single node for all sequences.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mlx_rs::Array;

use crate::append;
use crate::attention::{self, Geometry, Inputs, Load};
use crate::error::MlxResult;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::rope;
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, SliceMut};
use crate::runtime::pool::{parallel_for, threads};
use crate::runtime::scratch;

/// Inputs `q`, `k`, `v`, perhaps sinks, and of each sequence that has any, the stored keys and values; outputs the
/// result, and of each sequence what is stored now.
pub(super) struct CachedAttention {
    pub parts: Vec<Part>,
    pub sinks: bool,
    /// Positions added to each sequence by replays of a tape.
    pub added: AtomicUsize,
}

/// One sequence, or a batch of equal length.
pub(super) struct Part {
    pub geometry: Geometry,
    /// Positions before those that are stored.
    pub skipped: usize,
    /// Inverse frequencies, radians per position.
    pub inv_freq: Option<Arc<[f64]>>,
    /// Whether keys and values are among the inputs.
    pub is_cached: bool,
}

impl HostOp for CachedAttention {
    const NAME: &'static CStr = c"EatCachedAttention";

    fn donors(&self, _inputs: usize, _outputs: usize) -> Vec<Option<usize>> {
        let mut next = self.first_stored();
        let stored = self.parts.iter().flat_map(|part| [part.is_cached; 2]);
        let donors = stored.map(|is_cached| {
            is_cached.then(|| {
                next += 1;
                next - 1
            })
        });
        std::iter::once(None).chain(donors).collect()
    }

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        match outputs[0].data {
            SliceMut::F32(_) => self.run::<f32>(inputs, outputs),
            SliceMut::F16(_) => self.run::<half::f16>(inputs, outputs),
            SliceMut::Bf16(_) => self.run::<half::bf16>(inputs, outputs),
        }
    }

    fn vjp(&self, _: &VjpContext, _: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }

    fn runs_left(&self) -> usize {
        // Caches grow in place only, and at least one position of each must be there to continue.
        let left = |part: &Part| {
            let Geometry { time, keys, capacity, .. } = part.geometry;
            if time == 1 && keys > 1 { capacity - keys } else { 0 }
        };
        self.parts.iter().map(left).min().unwrap_or(0)
    }

    fn advance(&self) {
        self.added.fetch_add(1, Ordering::Relaxed);
    }
}

impl CachedAttention {
    /// Which input holds the first stored keys.
    fn first_stored(&self) -> usize {
        3 + usize::from(self.sinks)
    }

    fn run<T: Load>(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let sinks = self.sinks.then(|| attention::numbers(&inputs[3]));
        let [mut q, mut k, mut v] = [0, 1, 2].map(|input: usize| T::of(&inputs[input].data));
        let mut stored = inputs[self.first_stored()..].iter();
        let (y, caches) = outputs.split_at_mut(1);
        let mut y = T::of_mut(&mut y[0].data);
        let added = self.added.load(Ordering::Relaxed);
        let mut tasks = Vec::with_capacity(self.parts.len());
        for (part, caches) in self.parts.iter().zip(caches.chunks_exact_mut(2)) {
            let mut geometry = part.geometry;
            geometry.keys += added;
            let rows = geometry.batch * geometry.time * geometry.head_dim;
            let (own_y, rest) = y.split_at_mut(rows * geometry.heads);
            y = rest;
            let [keys, values] = caches else { unreachable!("keys and values") };
            let mut old = || part.is_cached.then(|| stored.next()).flatten();
            tasks.push(Mutex::new(Task {
                part,
                geometry,
                q: q.split_off(..own_y.len()).unwrap_or_default(),
                rows: [&mut k, &mut v].map(|x| x.split_off(..rows * geometry.kv_heads).unwrap_or_default()),
                old: [old(), old()],
                sinks: sinks.as_deref(),
                y: own_y,
                stores: [T::of_mut(&mut keys.data), T::of_mut(&mut values.data)],
            }));
        }
        let run = |task: &Mutex<Task<T>>| task.lock().unwrap_or_else(PoisonError::into_inner).run();
        // Many queries of one sequence are computed in parallel, and so are many sequences of one query.
        let (short, long): (Vec<_>, Vec<_>) = tasks
            .iter()
            .zip(&self.parts)
            .partition(|(_, part)| part.geometry.time == 1 && self.parts.len() >= threads());
        for (task, _) in long {
            run(task);
        }
        parallel_for(short.len(), |i| run(short[i].0));
    }
}

/// What one sequence reads and writes.
struct Task<'a, T> {
    part: &'a Part,
    geometry: Geometry,
    q: &'a [T],
    /// New keys and values.
    rows: [&'a [T]; 2],
    /// Stored keys and values.
    old: [Option<&'a Operand<'a>>; 2],
    sinks: Option<&'a [f32]>,
    y: &'a mut [T],
    /// Where keys and values are stored.
    stores: [&'a mut [T]; 2],
}

impl<T: Load> Task<'_, T> {
    fn run(&mut self) {
        let Geometry { batch, time, heads, kv_heads, head_dim, capacity, keys, .. } = self.geometry;
        let isa = Isa::current();
        let (mut q, [mut new_k, new_v]) = (self.q, self.rows);
        let rotates = self.part.inv_freq.is_some();
        let mut rotated = scratch::take::<T>(if rotates { q.len() + new_k.len() } else { 0 });
        if let Some(inv_freq) = &self.part.inv_freq {
            let (rotated_q, rotated_k) = rotated.split_at_mut(q.len());
            let first = (self.part.skipped + keys - time) as i32;
            let positions = rope::cpu::Positions::Offset { first, time };
            let pairs = [(q, &mut *rotated_q), (new_k, &mut *rotated_k)];
            rope::cpu::rotate(isa, inv_freq, positions, batch * time, head_dim, pairs);
            (q, new_k) = (rotated_q, rotated_k);
        }
        for ((old, rows), out) in self.old.iter().zip([new_k, new_v]).zip(&mut self.stores) {
            let old_capacity = old.map_or(0, |old| old.shape[1].unsigned_abs() as usize);
            let extent = append::Extent {
                row: kv_heads * head_dim,
                len: keys - time,
                count: time,
                capacity,
                old_capacity,
            };
            append::write(extent, old.map(|old| T::of(&old.data)), rows, out);
        }
        let mut logsumexps = scratch::take(batch * time * heads);
        let [k, v] = &self.stores;
        let inputs = Inputs { q, k, v, starts: None, sinks: self.sinks };
        attention::forward(isa, &self.geometry, &inputs, self.y, &mut logsumexps);
    }
}
