//! The CPU kernels: tensors of all sizes are cut into pieces of one size, so that threads share the work
//! evenly whether it is one large table or hundreds of small adapters.

use super::Decays;
use crate::runtime::disjoint::run_items;
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::operand::{Slice, SliceMut};
use crate::runtime::reduce::dot;

/// Elements of one task.
const PIECE: usize = 1 << 15;

/// Elements widened at a time, which stay in the first-level cache.
const BLOCK: usize = 1024;

/// [`Decays`] in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    /// `β₁` and `1 - β₁`
    pub first: [f32; 2],
    /// `β₂` and `1 - β₂`
    pub second: [f32; 2],
    pub eps: f32,
}

impl Shares {
    /// Computed in f64: `1 - β` loses most digits in f32.
    pub(super) fn of(decays: &Decays) -> Self {
        let shares = |beta: f64| [beta as f32, (1.0 - beta) as f32];
        Self { first: shares(decays.beta1), second: shares(decays.beta2), eps: decays.eps as f32 }
    }
}

/// All numbers of an update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub shares: Shares,
    pub grad_scale: f32,
    /// `1 / √(1 - β₂ᵗ)`
    pub root_scale: f32,
    /// `lr / (1 - β₁ᵗ)`
    pub step_size: f32,
    /// `1 - lr·λ`
    pub keep: f32,
}

/// The update of one piece.
pub(super) type Piece<'a> = Box<dyn FnMut(Isa, &Factors) + Send + 'a>;

/// Adds the pieces of one tensor to `pieces`; absent moments are zero.
///
/// `updated` is the new parameter, first and second moment.
pub(super) fn cut<'a>(
    pieces: &mut Vec<Piece<'a>>,
    parameter: Slice<'a>,
    grad: Slice<'a>,
    moments: Option<(Slice<'a>, Slice<'a>)>,
    [updated, first, second]: [&'a mut SliceMut; 3],
) {
    let moments = moments.map(|(first, second)| [first, second].map(|moment| f32::of(&moment)));
    let moments = |start: usize, len: usize| moments.map(|old| old.map(|old| &old[start..start + len]));
    let new_moments = f32::of_mut(first).chunks_mut(PIECE).zip(f32::of_mut(second).chunks_mut(PIECE));
    with_element!(&parameter, P => with_element!(&grad, G => {
        let old = P::of(&parameter).chunks(PIECE).zip(G::of(&grad).chunks(PIECE));
        let new = P::of_mut(updated).chunks_mut(PIECE).zip(new_moments);
        for (i, ((parameter, grad), (updated, (first, second)))) in old.zip(new).enumerate() {
            let moments = moments(i * PIECE, parameter.len());
            pieces.push(Box::new(move |isa, factors| {
                update_piece(isa, factors, parameter, grad, moments, updated, [&mut *first, &mut *second]);
            }));
        }
    }));
}

pub(super) fn update(isa: Isa, factors: &Factors, pieces: Vec<Piece>) {
    run_items(pieces.into_iter(), |piece| piece(isa, factors));
}

fn update_piece<P: Element, G: Element>(
    isa: Isa,
    factors: &Factors,
    parameter: &[P],
    grad: &[G],
    moments: Option<[&[f32]; 2]>,
    updated: &mut [P],
    [first, second]: [&mut [f32]; 2],
) {
    let (mut wide, mut grads) = ([0.0; BLOCK], [0.0; BLOCK]);
    for start in (0..parameter.len()).step_by(BLOCK) {
        let range = start..(start + BLOCK).min(parameter.len());
        let (wide, grads) = (&mut wide[..range.len()], &mut grads[..range.len()]);
        widen(isa, &parameter[range.clone()], wide);
        widen(isa, &grad[range.clone()], grads);
        let (first, second) = (&mut first[range.clone()], &mut second[range.clone()]);
        if let Some(old) = moments {
            first.copy_from_slice(&old[0][range.clone()]);
            second.copy_from_slice(&old[1][range.clone()]);
        } else {
            first.fill(0.0);
            second.fill(0.0);
        }
        update_block(isa, factors, grads, wide, first, second);
        narrow(isa, wide, &mut updated[range]);
    }
}

/// `Σ x²` over all elements, in f64 across blocks.
pub(super) fn squared_norm(isa: Isa, arrays: &[Slice]) -> f64 {
    let mut pieces: Vec<Box<dyn Fn() -> f64 + Send + '_>> = Vec::new();
    for array in arrays {
        with_element!(array, T => for piece in T::of(array).chunks(PIECE) {
            pieces.push(Box::new(move || squares(isa, piece)));
        });
    }
    let mut sums = vec![0.0; pieces.len()];
    run_items(pieces.into_iter().zip(&mut sums), |(piece, sum)| **sum = piece());
    sums.iter().sum()
}

vectorized! {
    fn widen<T: Element>(row: &[T], wide: &mut [f32]) {
        T::widen(row, wide);
    }

    fn narrow<T: Element>(wide: &[f32], row: &mut [T]) {
        T::narrow(wide, row);
    }

    fn update_block(
        factors: &Factors,
        grad: &[f32],
        parameter: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let Factors { shares, grad_scale, root_scale, step_size, keep } = *factors;
        let Shares { first: [beta1, share1], second: [beta2, share2], eps } = shares;
        let moments = first.iter_mut().zip(second);
        for ((p, g), (m, v)) in parameter.iter_mut().zip(grad).zip(moments) {
            let g = g * grad_scale;
            *m = beta1 * *m + share1 * g;
            *v = beta2 * *v + share2 * g * g;
            *p = *p * keep - step_size * *m / (v.sqrt() * root_scale + eps);
        }
    }

    fn squares<T: Element>(piece: &[T]) -> f64 {
        let (mut wide, mut sum) = ([0.0; BLOCK], 0.0);
        for block in piece.chunks(BLOCK) {
            let wide = &mut wide[..block.len()];
            T::widen(block, wide);
            sum += f64::from(dot(wide, wide));
        }
        sum
    }
}
