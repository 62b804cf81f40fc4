//! Weight-decomposed low-rank adaptation ([DoRA](https://arxiv.org/abs/2402.09353)): the low-rank update
//! changes the direction of the rows of a weight, and a trained magnitude rescales them.
//!
//! ```text
//! y = f ∘ (x·Wᵀ + s·(x·A)·B) + b        f = m / n        nₒ = ‖Wₒ + s·(A·B)ᵀₒ‖
//! ```
//!
//! | operand | shape |
//! |---|---|
//! | `m`, `n`, `f` | `[out]` |
//! | `W` | `[out, in]`, dense or quantized |
//! | `A`, `B` | `[in, rank]`, `[rank, out]` |
//!
//! `n` is a constant for gradients (§4.3 of the paper), and `m` is initialized with `‖Wₒ‖`. No matrix of the
//! size of `W` is created for `n`: `nₒ² = ‖Wₒ‖² + 2s·Σᵣ (W·A)ₒᵣ·Bᵣₒ + s²·(Bᵀ·AᵀA·B)ₒₒ`, and the first term is
//! constant. With dropout, `x·Wᵀ` enters once without dropout and `f - 1` times with the dropped inputs of
//! `A`, as in PEFT.

use mlx_rs::ops::maximum;
use mlx_rs::{Array, Dtype, stop_gradient};

use super::Linear;
use crate::kernels::eval;
use crate::kernels::linear::{Layer, Weight, linears};
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::quantized::{Accuracy, dequantize};
use crate::nn::Result;

/// Lower bound of row norms: a row of zeros has no direction and stays zero.
pub const MIN_ROW_NORM: f32 = 1e-6;

/// Cached row norms of one layer, `[out]` in float32.
#[derive(Debug, Clone, Default)]
pub struct RowNorms {
    /// `‖Wₒ‖²`.
    pub base: Option<Array>,
    /// `f` while the adapter does not change; `None` in training.
    pub factor: Option<Array>,
}

impl Linear {
    /// Initializes `m` with the row norms of the weight, so that outputs do not change.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn init_magnitude(&mut self) -> crate::Result<()> {
        let base = row_squares(self.matrix())?;
        let lengths = base.sqrt()?;
        eval([&base, &lengths])?;
        *self.m = Some(lengths);
        self.low_rank.norms = RowNorms { base: Some(base), factor: None };
        Ok(())
    }

    /// Caches the row norms of a layer with a magnitude, for inference.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn cache_row_norms(&mut self) -> crate::Result<()> {
        if self.m.is_none() {
            return Ok(());
        }
        if self.low_rank.norms.base.is_none() {
            self.low_rank.norms.base = Some(row_squares(self.matrix())?);
        }
        self.low_rank.norms.factor = None;
        let factor = self.row_scale()?;
        eval(self.low_rank.norms.base.iter().chain([&factor]))?;
        self.low_rank.norms.factor = Some(factor);
        Ok(())
    }

    /// Returns `f`; one without a magnitude.
    pub(super) fn row_scale(&self) -> Result<Array> {
        if let Some(factor) = &self.low_rank.norms.factor {
            return Ok(factor.clone());
        }
        let (Some(m), Some(a), Some(b)) = (&*self.m, &*self.lora_a, &*self.lora_b) else {
            return Ok(Array::from_f32(1.0));
        };
        let m = m.as_dtype(Dtype::Float32)?;
        m.divide(maximum(self.row_norms(a, b)?, Array::from_f32(MIN_ROW_NORM))?)
    }

    /// Returns `n`.
    fn row_norms(&self, a: &Array, b: &Array) -> Result<Array> {
        let [a, b] = [stop_gradient(a)?, stop_gradient(b)?];
        let [a, b] = [a.as_dtype(Dtype::Float32)?, b.as_dtype(Dtype::Float32)?];
        let base = self.low_rank.norms.base.clone().map_or_else(|| row_squares(self.matrix()), Ok)?;
        let plain = [Layer::plain(self.matrix())];
        let projected = Accuracy::F32.scope(|| linears(&a.t(), &plain))?.swap_remove(0);
        let gram = matmul(&a, &a, Transpose { a: true, b: false })?;
        let scale = Array::from_f32(self.low_rank.scale);
        // Both sums at once: 2s·(W·A)ᵀ + s²·AᵀA·B, `[rank, out]`, against B.
        let squares = matmul(&gram, &b, Transpose::NONE)?.multiply(scale.square()?)?;
        let terms = projected.multiply(scale.multiply(Array::from_f32(2.0))?)?.add(squares)?;
        let change = terms.multiply(&b)?.sum_axis(0, false)?;
        maximum(base.add(change)?, Array::from_f32(0.0))?.sqrt()
    }

    /// Returns `f ∘ y`, in the dtype of `y`.
    pub(super) fn scale_rows(&self, y: &Array) -> Result<Array> {
        y.multiply(self.row_scale()?)?.as_dtype(y.dtype())
    }

    /// Returns `y + (f - 1) ∘ x̃·Wᵀ + f ∘ s·(x̃·A)·B`, where `y` is the output without the adapter and `x̃`
    /// is `x` with dropout.
    pub(super) fn scale_rows_with_dropout(&self, y: &Array, x: &Array, key: &Array) -> Result<Array> {
        let Some(low) = self.trained()? else { return Ok(y.clone()) };
        let x = self.dropped(x, key)?;
        let factor = self.row_scale()?;
        let base = linears(&x, &[Layer::plain(self.matrix())])?.swap_remove(0);
        let base = base.multiply(factor.subtract(Array::from_f32(1.0))?)?;
        let low = low.product(&x, self.low_rank.scale)?.multiply(factor)?;
        y.add(base.add(low)?.as_dtype(y.dtype())?)
    }
}

/// Sum of squares of each row, `[out]` in float32.
fn row_squares(weight: Weight) -> Result<Array> {
    let dense = match weight {
        Weight::Dense(weight) => weight.as_dtype(Dtype::Float32)?,
        Weight::Packed(weight) => dequantize(weight, Dtype::Float32)?,
        Weight::Sparse(matrix) => matrix.to_dense(Dtype::Float32)?,
    };
    dense.square()?.sum_axis(1, false)
}

#[cfg(test)]
mod tests {
    use mlx_rs::random;

    use super::*;
    use crate::kernels::quantized::Format;
    use crate::nn::LowRank;

    const IN: i32 = 64;
    const OUT: i32 = 5;
    const RANK: i32 = 3;

    fn normal(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    /// A layer whose adapter already changes it.
    fn layer(bits: Option<usize>) -> Linear {
        let mut layer = Linear::new(IN, OUT, true).unwrap();
        *layer.weight = normal(&[OUT, IN], 1);
        *layer.bias = Some(normal(&[OUT], 2));
        if let Some(bits) = bits {
            layer.weight_mut().quantize(Format::affine(bits, 32).unwrap()).unwrap();
        }
        layer.init_magnitude().unwrap();
        *layer.m = Some(layer.m.value.as_ref().unwrap().add(normal(&[OUT], 5).abs().unwrap()).unwrap());
        (*layer.lora_a, *layer.lora_b) = (Some(normal(&[IN, RANK], 3)), Some(normal(&[RANK, OUT], 4)));
        layer.low_rank.scale = 0.5;
        layer
    }

    fn values(x: &Array) -> Vec<f64> {
        let x = x.contiguous().unwrap();
        eval([&x]).unwrap();
        x.as_slice::<f32>().iter().map(|&x| f64::from(x)).collect()
    }

    /// Rows of `W`, and of `W + s·(A·B)ᵀ`, in f64.
    fn rows(layer: &Linear) -> [Vec<Vec<f64>>; 2] {
        let weight = match layer.matrix() {
            Weight::Dense(weight) => weight.clone(),
            Weight::Packed(weight) => dequantize(weight, Dtype::Float32).unwrap(),
            Weight::Sparse(matrix) => matrix.to_dense(Dtype::Float32).unwrap(),
        };
        let weight = values(&weight);
        let (a, b) =
            (values(layer.lora_a.value.as_ref().unwrap()), values(layer.lora_b.value.as_ref().unwrap()));
        let [inputs, outputs, rank] = [IN, OUT, RANK].map(|dim| dim as usize);
        let base: Vec<Vec<f64>> = weight.chunks_exact(inputs).map(<[f64]>::to_vec).collect();
        let adapted = base
            .iter()
            .enumerate()
            .map(|(o, row)| {
                let low = |i: usize| (0..rank).map(|r| a[i * rank + r] * b[r * outputs + o]).sum::<f64>();
                row.iter().enumerate().map(|(i, w)| w + 0.5 * low(i)).collect()
            })
            .collect();
        [base, adapted]
    }

    fn dot(x: &[f64], y: &[f64]) -> f64 {
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{a}, expected {b}");
        }
    }

    #[test]
    fn is_the_formula_dense_and_packed() {
        for bits in [None, Some(8), Some(4)] {
            let mut layer = layer(bits);
            let x = normal(&[1, IN], 7);
            let (m, bias, inputs) = (
                values(layer.m.value.as_ref().unwrap()),
                values(layer.bias.value.as_ref().unwrap()),
                values(&x),
            );
            let [_, adapted] = rows(&layer);
            let expected: Vec<f64> = adapted
                .iter()
                .enumerate()
                .map(|(o, row)| m[o] / dot(row, row).sqrt() * dot(row, &inputs) + bias[o])
                .collect();
            assert_close(&values(&layer.forward(&x).unwrap()), &expected);
            layer.cache_row_norms().unwrap();
            assert_close(&values(&layer.forward(&x).unwrap()), &expected);
        }
    }

    #[test]
    fn dropout_is_that_of_peft() {
        let mut layer = layer(None);
        let key = random::key(9).unwrap();
        layer.low_rank = LowRank { dropout: 0.5, dropout_key: Some(key.clone()), ..layer.low_rank };
        let x = normal(&[1, IN], 7);
        let dropped = values(&layer.dropped(&x, &key).unwrap());
        let (m, bias, inputs) =
            (values(layer.m.value.as_ref().unwrap()), values(layer.bias.value.as_ref().unwrap()), values(&x));
        let [base, adapted] = rows(&layer);
        let expected: Vec<f64> = (0..OUT as usize)
            .map(|o| {
                let f = m[o] / dot(&adapted[o], &adapted[o]).sqrt();
                dot(&base[o], &inputs) + bias[o] + f * dot(&adapted[o], &dropped) - dot(&base[o], &dropped)
            })
            .collect();
        assert_close(&values(&layer.forward(&x).unwrap()), &expected);
    }

    #[test]
    fn a_fresh_magnitude_changes_nothing_even_in_a_row_of_zeros() {
        let mut layer = layer(None);
        let mask = Array::from_slice(&[1.0_f32, 0.0, 1.0, 1.0, 1.0], &[OUT, 1]);
        *layer.weight = layer.weight.multiply(mask).unwrap();
        let x = normal(&[2, IN], 7);
        let adapter = (layer.lora_a.take(), layer.lora_b.take(), layer.m.take());
        let plain = values(&layer.forward(&x).unwrap());
        (*layer.lora_a, *layer.lora_b) = (adapter.0, Some(Array::zeros::<f32>(&[RANK, OUT]).unwrap()));
        layer.init_magnitude().unwrap();
        assert_eq!(values(&layer.forward(&x).unwrap()), plain);
    }
}
