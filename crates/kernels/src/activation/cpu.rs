//! CPU kernels, in blocks that fit the first-level cache.
//!
//! Every activation has the form `x · s(x)` with `s` in [0, 1], so its derivative is `s + x·s'`.

use super::Activation;
use crate::runtime::disjoint::parallel_items;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::{normal_pdf_cdf, sigmoid};

/// Elements of one task.
const GRAIN: usize = 1 << 14;

/// Elements widened at a time.
const BLOCK: usize = 512;

/// The approximation of GELU is `x/2 · (1 + tanh(√(2/π)·(x + CUBIC·x³)))`.
pub(super) const SQRT_2_OVER_PI: f32 = 0.797_884_6;
pub(super) const CUBIC: f32 = 0.044_715;

/// Steepness of [`Activation::QuickGelu`].
pub(super) const QUICK: f32 = 1.702;

pub(super) fn activate<T: Element>(isa: Isa, activation: Activation, x: &[T], out: &mut [T]) {
    parallel_items(x.chunks(GRAIN).zip(out.chunks_mut(GRAIN)), |(x, out)| match activation {
        Activation::Silu => plain_silu(isa, x, out),
        Activation::Gelu => plain_gelu(isa, x, out),
        Activation::GeluTanh => plain_gelu_tanh(isa, x, out),
        Activation::QuickGelu => plain_quick_gelu(isa, x, out),
    });
}

pub(super) fn activate_backward<T: Element>(
    isa: Isa,
    activation: Activation,
    [x, grad]: [&[T]; 2],
    dx: &mut [T],
) {
    let chunks = x.chunks(GRAIN).zip(grad.chunks(GRAIN)).zip(dx.chunks_mut(GRAIN));
    parallel_items(chunks, |((x, grad), dx)| match activation {
        Activation::Silu => plain_silu_backward(isa, x, grad, dx),
        Activation::Gelu => plain_gelu_backward(isa, x, grad, dx),
        Activation::GeluTanh => plain_gelu_tanh_backward(isa, x, grad, dx),
        Activation::QuickGelu => plain_quick_gelu_backward(isa, x, grad, dx),
    });
}

pub(super) fn gated<T: Element>(isa: Isa, activation: Activation, gate: &[T], up: &[T], out: &mut [T]) {
    let inputs = gate.chunks(GRAIN).zip(up.chunks(GRAIN));
    parallel_items(inputs.zip(out.chunks_mut(GRAIN)), |((gate, up), out)| match activation {
        Activation::Silu => silu(isa, gate, up, out),
        Activation::Gelu => gelu(isa, gate, up, out),
        Activation::GeluTanh => gelu_tanh(isa, gate, up, out),
        Activation::QuickGelu => quick_gelu(isa, gate, up, out),
    });
}

pub(super) fn gated_backward<T: Element>(
    isa: Isa,
    activation: Activation,
    [gate, up, grad]: [&[T]; 3],
    [dgate, dup]: [&mut [T]; 2],
) {
    let inputs = gate.chunks(GRAIN).zip(up.chunks(GRAIN)).zip(grad.chunks(GRAIN));
    let outputs = dgate.chunks_mut(GRAIN).zip(dup.chunks_mut(GRAIN));
    parallel_items(inputs.zip(outputs), |(((gate, up), grad), (dgate, dup))| match activation {
        Activation::Silu => silu_backward(isa, gate, up, grad, dgate, dup),
        Activation::Gelu => gelu_backward(isa, gate, up, grad, dgate, dup),
        Activation::GeluTanh => gelu_tanh_backward(isa, gate, up, grad, dgate, dup),
        Activation::QuickGelu => quick_gelu_backward(isa, gate, up, grad, dgate, dup),
    });
}

vectorized! {
    fn silu<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
        forward(gate, up, out, silu_share);
    }

    fn gelu<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
        forward(gate, up, out, gelu_share);
    }

    fn gelu_tanh<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
        forward(gate, up, out, gelu_tanh_share);
    }

    fn quick_gelu<T: Element>(gate: &[T], up: &[T], out: &mut [T]) {
        forward(gate, up, out, quick_gelu_share);
    }

    fn silu_backward<T: Element>(gate: &[T], up: &[T], grad: &[T], dgate: &mut [T], dup: &mut [T]) {
        backward([gate, up, grad], [dgate, dup], silu_share);
    }

    fn gelu_backward<T: Element>(gate: &[T], up: &[T], grad: &[T], dgate: &mut [T], dup: &mut [T]) {
        backward([gate, up, grad], [dgate, dup], gelu_share);
    }

    fn gelu_tanh_backward<T: Element>(gate: &[T], up: &[T], grad: &[T], dgate: &mut [T], dup: &mut [T]) {
        backward([gate, up, grad], [dgate, dup], gelu_tanh_share);
    }

    fn quick_gelu_backward<T: Element>(gate: &[T], up: &[T], grad: &[T], dgate: &mut [T], dup: &mut [T]) {
        backward([gate, up, grad], [dgate, dup], quick_gelu_share);
    }

    fn plain_silu<T: Element>(x: &[T], out: &mut [T]) {
        plain_forward(x, out, silu_share);
    }

    fn plain_silu_backward<T: Element>(x: &[T], grad: &[T], dx: &mut [T]) {
        plain_backward([x, grad], dx, silu_share);
    }

    fn plain_gelu<T: Element>(x: &[T], out: &mut [T]) {
        plain_forward(x, out, gelu_share);
    }

    fn plain_gelu_backward<T: Element>(x: &[T], grad: &[T], dx: &mut [T]) {
        plain_backward([x, grad], dx, gelu_share);
    }

    fn plain_gelu_tanh<T: Element>(x: &[T], out: &mut [T]) {
        plain_forward(x, out, gelu_tanh_share);
    }

    fn plain_gelu_tanh_backward<T: Element>(x: &[T], grad: &[T], dx: &mut [T]) {
        plain_backward([x, grad], dx, gelu_tanh_share);
    }

    fn plain_quick_gelu<T: Element>(x: &[T], out: &mut [T]) {
        plain_forward(x, out, quick_gelu_share);
    }

    fn plain_quick_gelu_backward<T: Element>(x: &[T], grad: &[T], dx: &mut [T]) {
        plain_backward([x, grad], dx, quick_gelu_share);
    }
}

/// `(s, s')` of [`Activation::QuickGelu`].
#[inline(always)]
#[allow(clippy::inline_always)]
fn quick_gelu_share(x: f32) -> (f32, f32) {
    let s = sigmoid(QUICK * x);
    (s, QUICK * s * (1.0 - s))
}

/// `(s, s')` of [`Activation::Silu`].
#[inline(always)]
#[allow(clippy::inline_always)]
fn silu_share(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (s, s * (1.0 - s))
}

/// `(s, s')` of [`Activation::Gelu`].
#[inline(always)]
#[allow(clippy::inline_always)]
fn gelu_share(x: f32) -> (f32, f32) {
    let (density, cumulative) = normal_pdf_cdf(x);
    (cumulative, density)
}

/// `(s, s')` of [`Activation::GeluTanh`]: `(1 + tanh(u))/2 = sigmoid(2u)`.
#[inline(always)]
#[allow(clippy::inline_always)]
fn gelu_tanh_share(x: f32) -> (f32, f32) {
    let square = x * x;
    let s = sigmoid(2.0 * SQRT_2_OVER_PI * x * (1.0 + CUBIC * square));
    (s, s * (1.0 - s) * 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * square))
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn plain_forward<T: Element>(x: &[T], out: &mut [T], share: impl Fn(f32) -> (f32, f32)) {
    let mut wide = [0.0; BLOCK];
    for (x, out) in x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let wide = &mut wide[..out.len()];
        T::widen(x, wide);
        for x in wide.iter_mut() {
            *x *= share(*x).0;
        }
        T::narrow(wide, out);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn plain_backward<T: Element>([x, grad]: [&[T]; 2], dx: &mut [T], share: impl Fn(f32) -> (f32, f32)) {
    let (mut wide, mut g) = ([0.0; BLOCK], [0.0; BLOCK]);
    for ((x, grad), dx) in x.chunks(BLOCK).zip(grad.chunks(BLOCK)).zip(dx.chunks_mut(BLOCK)) {
        let (wide, g) = (&mut wide[..dx.len()], &mut g[..dx.len()]);
        T::widen(x, wide);
        T::widen(grad, g);
        for (x, g) in wide.iter_mut().zip(&*g) {
            let (s, slope) = share(*x);
            *x = g * (s + *x * slope);
        }
        T::narrow(wide, dx);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn forward<T: Element>(gate: &[T], up: &[T], out: &mut [T], share: impl Fn(f32) -> (f32, f32)) {
    let (mut x, mut y) = ([0.0; BLOCK], [0.0; BLOCK]);
    for ((gate, up), out) in gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(out.chunks_mut(BLOCK)) {
        let (x, y) = (&mut x[..out.len()], &mut y[..out.len()]);
        T::widen(gate, x);
        T::widen(up, y);
        for (x, y) in x.iter_mut().zip(&*y) {
            *x *= share(*x).0 * y;
        }
        T::narrow(x, out);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn backward<T: Element>(
    [gate, up, grad]: [&[T]; 3],
    [dgate, dup]: [&mut [T]; 2],
    share: impl Fn(f32) -> (f32, f32),
) {
    let (mut x, mut y, mut g) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
    let inputs = gate.chunks(BLOCK).zip(up.chunks(BLOCK)).zip(grad.chunks(BLOCK));
    let outputs = dgate.chunks_mut(BLOCK).zip(dup.chunks_mut(BLOCK));
    for (((gate, up), grad), (dgate, dup)) in inputs.zip(outputs) {
        let len = gate.len();
        let (x, y, g) = (&mut x[..len], &mut y[..len], &mut g[..len]);
        T::widen(gate, x);
        T::widen(up, y);
        T::widen(grad, g);
        for ((x, y), g) in x.iter_mut().zip(y.iter_mut()).zip(&*g) {
            let (s, slope) = share(*x);
            (*x, *y) = (g * *y * (s + *x * slope), g * *x * s);
        }
        T::narrow(x, dgate);
        T::narrow(y, dup);
    }
}
