//! Principal singular values and vectors adaptation ([PiSSA](https://arxiv.org/abs/2404.02948)): adapters are
//! initialized with the principal part of the weight.
//!
//! ```text
//! W = U·Σ·Vᵀ        A₀ = V_r·(Σ_r/s)^½  [in, r]        B₀ = (Σ_r/s)^½·U_rᵀ  [r, out]
//! y = x·Wᵀ - s·(x·A₀)·B₀ + s·(x·A)·B
//! ```
//!
//! `A` and `B` are initialized with `A₀` and `B₀`, and the residual `W - s·(A₀·B₀)ᵀ` is frozen. The residual
//! is never stored: the base weight is left unchanged, dense or quantized, and `-s·(x·A₀)·B₀` is a second,
//! frozen low-rank update. So nothing is rounded to the dtype of the base, and the result, `[A A₀]` and `[B;
//! -B₀]`, is a plain adapter of rank `2r` for the original model.

use mlx_rs::linalg::{qr, svd};
use mlx_rs::ops::indexing::IndexOp as _;
use mlx_rs::{Array, Device, Dtype, random, with_device};

use crate::kernels::linear::Weight;
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::quantized::dequantize;
use crate::nn::{Linear, Result};
use crate::{Error, kernels};

/// Algorithm of the singular value decomposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SvdMethod {
    /// Full decomposition.
    Exact,
    /// The leading singular vectors, by this many [power iterations](https://arxiv.org/abs/0909.4061).
    Randomized(u32),
}

/// Initializes the adapter of `layer` with its principal part of rank `rank`. `key` is the PRNG key of the
/// power iterations.
///
/// # Errors
/// A rank larger than that of the weight.
pub fn initialize(layer: &mut Linear, rank: i32, decomposition: SvdMethod, key: &Array) -> crate::Result<()> {
    let weight = match layer.matrix() {
        Weight::Dense(weight) => weight.as_dtype(Dtype::Float32)?,
        Weight::Packed(weight) => dequantize(weight, Dtype::Float32)?,
        Weight::Sparse(matrix) => matrix.to_dense(Dtype::Float32)?,
    };
    let (inputs, outputs) = layer.size();
    if rank > inputs.min(outputs) {
        return Err(Error::Config(format!(
            "the rank (lora_rank, rank_pattern) is {rank}, but a layer from {inputs} to {outputs} has only {} singular values for lora_init",
            inputs.min(outputs)
        )));
    }
    let [u, s, vt] = match decomposition {
        SvdMethod::Exact => thin_svd(&weight)?,
        SvdMethod::Randomized(iterations) => randomized_svd(&weight, rank, iterations, key)?,
    };
    let root = s.index(..rank).divide(Array::from_f32(layer.low_rank.scale))?.sqrt()?;
    let a = vt.index(..rank).t().multiply(&root)?.contiguous()?;
    let b = u.index((.., ..rank)).multiply(&root)?.t().contiguous()?;
    let minus_b = b.negative()?;
    kernels::eval([&a, &b, &minus_b])?;
    layer.low_rank.fixed = Some([a.clone(), minus_b]);
    (*layer.lora_a, *layer.lora_b) = (Some(a), Some(b));
    Ok(())
}

/// Returns `[U, Σ, Vᵀ]` of a matrix `[m, n]` with `min(m, n)` singular values.
///
/// # Errors
/// Errors from MLX.
pub fn thin_svd(matrix: &Array) -> Result<[Array; 3]> {
    if matrix.dim(0) < matrix.dim(1) {
        let [u, s, vt] = thin_svd(&matrix.t())?;
        return Ok([vt.t(), s, u.t()]);
    }
    // MLX returns square factors; for a tall matrix, decomposing the triangle of its QR factorization keeps them small.
    let (q, r) = with_device(Device::cpu(), || qr(matrix))?;
    let (u, s, vt) = with_device(Device::cpu(), || svd(&r))?;
    Ok([matmul(&q, &u, Transpose::NONE)?, s, vt])
}

/// Returns the leading `rank` singular values of a matrix `[m, n]` and their vectors, approximately.
fn randomized_svd(matrix: &Array, rank: i32, iterations: u32, key: &Array) -> Result<[Array; 3]> {
    let basis = |x: Array| with_device(Device::cpu(), || qr(&x)).map(|(q, _)| q);
    let turned = Transpose { a: true, b: false };
    let start = random::normal::<f32>(&[matrix.dim(1), rank], None, None, key)?;
    let mut q = basis(matmul(matrix, &start, Transpose::NONE)?)?;
    for _ in 0..iterations {
        let back = basis(matmul(matrix, &q, turned)?)?;
        q = basis(matmul(matrix, &back, Transpose::NONE)?)?;
    }
    let [u, s, vt] = thin_svd(&matmul(&q, matrix, turned)?)?;
    Ok([matmul(&q, &u, Transpose::NONE)?, s, vt])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quantized::Format;
    use crate::nn::LowRank;

    fn layer(inputs: i32, outputs: i32) -> Linear {
        let mut layer = Linear::new(inputs, outputs, false).unwrap();
        let key = random::key(1).unwrap();
        // Singular values that fall off, so that iterations find the first ones.
        let weight = random::normal::<f32>(&[outputs, inputs], None, None, &key).unwrap();
        let fall = Array::arange::<_, f32>(None, inputs, None).unwrap().multiply(Array::from_f32(-0.5));
        *layer.weight = weight.multiply(fall.unwrap().exp().unwrap()).unwrap();
        layer.low_rank = LowRank { scale: 2.0, ..LowRank::default() };
        layer
    }

    fn values(x: &Array) -> Vec<f32> {
        let x = x.contiguous().unwrap();
        kernels::eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    fn largest(x: &Array) -> f32 {
        values(x).into_iter().map(f32::abs).fold(0.0, f32::max)
    }

    #[test]
    fn full_rank_gives_the_matrix_back() {
        for (inputs, outputs) in [(6, 9), (9, 6), (7, 7)] {
            let mut layer = layer(inputs, outputs);
            initialize(&mut layer, inputs.min(outputs), SvdMethod::Exact, &random::key(2).unwrap()).unwrap();
            let (a, b) = (layer.lora_a.value.as_ref().unwrap(), layer.lora_b.value.as_ref().unwrap());
            let product = a.matmul(b).unwrap().multiply(Array::from_f32(2.0)).unwrap();
            assert!(largest(&product.t().subtract(&*layer.weight).unwrap()) < 1e-5);
        }
    }

    #[test]
    fn iterations_find_the_same_part() {
        let [mut exact, mut iterated] = [layer(48, 33), layer(48, 33)];
        let key = random::key(2).unwrap();
        initialize(&mut exact, 4, SvdMethod::Exact, &key).unwrap();
        initialize(&mut iterated, 4, SvdMethod::Randomized(16), &key).unwrap();
        let product = |layer: &Linear| {
            layer.lora_a.value.as_ref().unwrap().matmul(layer.lora_b.value.as_ref().unwrap()).unwrap()
        };
        assert!(largest(&product(&exact).subtract(product(&iterated)).unwrap()) < 1e-3);
    }

    #[test]
    fn nothing_changes_at_first_dense_or_packed() {
        for packed in [false, true] {
            let mut layer = layer(64, 33);
            if packed {
                layer.weight_mut().quantize(Format::affine(4, 32).unwrap()).unwrap();
            }
            let x = Array::ones::<f32>(&[2, 64]).unwrap();
            let before = layer.forward(&x).unwrap();
            initialize(&mut layer, 4, SvdMethod::Exact, &random::key(2).unwrap()).unwrap();
            assert!(largest(&layer.forward(&x).unwrap().subtract(&before).unwrap()) < 1e-4);
            layer.merge_parts().unwrap();
            assert_eq!(layer.lora_a.value.as_ref().unwrap().shape(), [64, 8]);
            assert!(largest(&layer.forward(&x).unwrap().subtract(&before).unwrap()) < 1e-4);
        }
    }

    #[test]
    fn a_rank_the_matrix_does_not_have_is_refused() {
        let error = initialize(&mut layer(8, 3), 4, SvdMethod::Exact, &random::key(2).unwrap()).unwrap_err();
        assert!(error.to_string().contains("only 3 singular values"), "{error}");
    }
}
