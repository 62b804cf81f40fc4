//! CPU kernels. Tensors are divided into chunks of one size, which balances one large embedding table as well as
//! hundreds of small adapter matrices.

use super::Hyperparameters;
use crate::runtime::disjoint::parallel_items;
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::operand::{Slice, SliceMut};
use crate::runtime::reduce::dot;

/// Elements of one task.
const CHUNK: usize = 1 << 15;

/// Elements widened at a time, which stay in the first-level cache.
const BLOCK: usize = 1024;

/// [`Hyperparameters`] in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct MomentCoefficients {
    /// `β₁` and `1 - β₁`
    pub first: [f32; 2],
    /// `β₂` and `1 - β₂`
    pub second: [f32; 2],
    pub eps: f32,
}

impl MomentCoefficients {
    /// Computed in f64: `1 - β` loses most digits in f32.
    pub(super) fn of(hyperparameters: &Hyperparameters) -> Self {
        let coefficients = |beta: f64| [beta as f32, (1.0 - beta) as f32];
        Self {
            first: coefficients(hyperparameters.beta1),
            second: coefficients(hyperparameters.beta2),
            eps: hyperparameters.eps as f32,
        }
    }
}

/// Scalars of an update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    pub coefficients: MomentCoefficients,
    pub grad_scale: f32,
    /// `1 / √(1 - β₂ᵗ)`
    pub root_scale: f32,
    /// `lr / (1 - β₁ᵗ)`
    pub step_size: f32,
    /// `1 - lr·λ`
    pub decay_factor: f32,
}

/// Update of one chunk.
pub(super) type Chunk<'a> = Box<dyn FnMut(Isa, &Factors) + Send + 'a>;

/// Appends the chunks of one tensor; absent moments are zero. The outputs are parameter, first and second moment.
pub(super) fn push_chunks<'a>(
    chunks: &mut Vec<Chunk<'a>>,
    parameter: Slice<'a>,
    grad: Slice<'a>,
    moments: Option<(Slice<'a>, Slice<'a>)>,
    [updated, first, second]: [&'a mut SliceMut; 3],
) {
    let moments = moments.map(|(first, second)| [first, second].map(|moment| f32::of(&moment)));
    let moments = |start: usize, len: usize| moments.map(|old| old.map(|old| &old[start..start + len]));
    let new_moments = f32::of_mut(first).chunks_mut(CHUNK).zip(f32::of_mut(second).chunks_mut(CHUNK));
    with_element!(&parameter, P => with_element!(&grad, G => {
        let old = P::of(&parameter).chunks(CHUNK).zip(G::of(&grad).chunks(CHUNK));
        let new = P::of_mut(updated).chunks_mut(CHUNK).zip(new_moments);
        for (i, ((parameter, grad), (updated, (first, second)))) in old.zip(new).enumerate() {
            let moments = moments(i * CHUNK, parameter.len());
            chunks.push(Box::new(move |isa, factors| {
                update_chunk(isa, factors, parameter, grad, moments, updated, [&mut *first, &mut *second]);
            }));
        }
    }));
}

pub(super) fn update(isa: Isa, factors: &Factors, chunks: Vec<Chunk>) {
    parallel_items(chunks.into_iter(), |chunk| chunk(isa, factors));
}

fn update_chunk<P: Element, G: Element>(
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
    let mut chunks: Vec<Box<dyn Fn() -> f64 + Send + '_>> = Vec::new();
    for array in arrays {
        with_element!(array, T => for chunk in T::of(array).chunks(CHUNK) {
            chunks.push(Box::new(move || squares(isa, chunk)));
        });
    }
    let mut sums = vec![0.0; chunks.len()];
    parallel_items(chunks.into_iter().zip(&mut sums), |(chunk, sum)| **sum = chunk());
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
        let Factors { coefficients, grad_scale, root_scale, step_size, decay_factor } = *factors;
        let MomentCoefficients { first: [beta1, one_minus_beta1], second: [beta2, one_minus_beta2], eps } = coefficients;
        let moments = first.iter_mut().zip(second);
        for ((p, g), (m, v)) in parameter.iter_mut().zip(grad).zip(moments) {
            let g = g * grad_scale;
            *m = beta1 * *m + one_minus_beta1 * g;
            *v = beta2 * *v + one_minus_beta2 * g * g;
            *p = *p * decay_factor - step_size * *m / (v.sqrt() * root_scale + eps);
        }
    }

    fn squares<T: Element>(chunk: &[T]) -> f64 {
        let (mut wide, mut sum) = ([0.0; BLOCK], 0.0);
        for block in chunk.chunks(BLOCK) {
            let wide = &mut wide[..block.len()];
            T::widen(block, wide);
            sum += f64::from(dot(wide, wide));
        }
        sum
    }
}
