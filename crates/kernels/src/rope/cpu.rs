//! CPU kernel: sines and cosines are computed once per token and shared by all heads.

use std::ops::Range;

use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::parallel_ranges;

/// Minimum number of elements per task.
const GRAIN: usize = 1 << 16;

/// Steps after which angles are recomputed instead of advanced by rotation: the error stays within 1e-14.
const STEPS: usize = 64;

/// Positions of the tokens.
#[derive(Clone, Copy)]
pub(crate) enum Positions<'a> {
    Offset { first: i32, time: usize },
    Ids(&'a [i32]),
}

impl Positions<'_> {
    fn of(self, token: usize) -> i64 {
        match self {
            Self::Offset { first, time } => i64::from(first) + (token % time) as i64,
            Self::Ids(positions) => i64::from(positions[token]),
        }
    }
}

/// Rotates each input into its output; `inv_freq` are angles per position.
pub(crate) fn rotate<T: Element>(
    isa: Isa,
    inv_freq: &[f64],
    positions: Positions,
    tokens: usize,
    head_dim: usize,
    pairs: [(&[T], &mut [T]); 2],
) {
    if tokens == 0 || head_dim == 0 {
        return;
    }
    let pairs = pairs.map(|(x, y)| (x, x.len() / tokens, Disjoint::new(y)));
    let numbers: usize = pairs.iter().map(|(_, row, _)| row).sum();
    parallel_ranges(tokens, (GRAIN / numbers.max(1)).max(1), |range| {
        let mut wide = vec![0.0; head_dim];
        for_each_angle(isa, inv_freq, positions, range, |token, cosines, sines| {
            for &(x, row, y) in &pairs {
                let part = token * row..(token + 1) * row;
                // SAFETY: every token comes once.
                let y = unsafe { y.part(part.clone()) };
                rotate_heads(isa, &x[part], y, cosines, sines, &mut wide);
            }
        });
    });
}

/// Calls `visit` with the cosines and sines of each token's angles.
fn for_each_angle(
    isa: Isa,
    inv_freq: &[f64],
    positions: Positions,
    tokens: Range<usize>,
    mut visit: impl FnMut(usize, &[f32], &[f32]),
) {
    let pairs = inv_freq.len();
    // Cosines and sines of the angle, and of one step.
    let (mut angle, mut step) = (vec![(1.0, 0.0); pairs], Vec::new());
    let mut narrow = vec![0.0; 2 * pairs];
    let mut previous = None;
    let mut steps = 0;
    for token in tokens {
        let position = positions.of(token);
        if previous == Some(position - 1) && steps < STEPS {
            if step.is_empty() {
                step = inv_freq.iter().map(|frequency| frequency.sin_cos()).map(|(s, c)| (c, s)).collect();
            }
            advance_angles(isa, &mut angle, &step);
            steps += 1;
        } else if previous != Some(position) {
            for (angle, frequency) in angle.iter_mut().zip(inv_freq) {
                let (s, c) = (position as f64 * frequency).sin_cos();
                *angle = (c, s);
            }
            steps = 0;
        }
        previous = Some(position);
        let (cosines, sines) = narrow.split_at_mut(pairs);
        for (i, &(c, s)) in angle.iter().enumerate() {
            (cosines[i], sines[i]) = (c as f32, s as f32);
        }
        visit(token, cosines, sines);
    }
}

vectorized! {
    /// Adds the angles of `step`.
    fn advance_angles(angle: &mut [(f64, f64)], step: &[(f64, f64)]) {
        for ((c, s), (step_c, step_s)) in angle.iter_mut().zip(step) {
            (*c, *s) = (*c * step_c - *s * step_s, *c * step_s + *s * step_c);
        }
    }

    /// Turns every head of a token; `wide` holds one head.
    fn rotate_heads<T: Element>(x: &[T], y: &mut [T], cosines: &[f32], sines: &[f32], wide: &mut [f32]) {
        let half = cosines.len();
        for (x, y) in x.chunks_exact(wide.len()).zip(y.chunks_exact_mut(wide.len())) {
            T::widen(x, wide);
            let (first, second) = wide[..2 * half].split_at_mut(half);
            for i in 0..half {
                let (a, b) = (first[i], second[i]);
                first[i] = a * cosines[i] - b * sines[i];
                second[i] = a * sines[i] + b * cosines[i];
            }
            T::narrow(wide, y);
        }
    }
}
