//! The linear layer of every model, dense or with a low-rank adapter.

use mlx_macros::ModuleParameters;
use mlx_rs::error::Exception;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype, random};

use super::Result;
use super::packed::{self, Slots};
use crate::kernels::linear::{self as kernel, Layer, Weight, linears};
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::quantized::Format;

/// `y = x·Wᵀ (+ b) (+ s·(x·A)·B)`, the low-rank part after [LoRA](https://arxiv.org/abs/2106.09685).
///
/// | slot | shape |
/// |---|---|
/// | `weight` | `[out, in]`, or the codes of a quantized matrix |
/// | `scales`, `biases` | `[out, in/group_size]`, of a quantized matrix |
/// | `bias` | `[out]` |
/// | `lora_a`, `lora_b` | `[in, rank]`, `[rank, out]` |
///
/// Slots are optional so that a checkpoint's keys are the same with and without an adapter.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Linear {
    /// `W`
    #[param]
    pub weight: Param<Array>,
    /// Factors of the groups of `W`.
    #[param]
    pub scales: Param<Option<Array>>,
    /// Summands of the groups of `W`.
    #[param]
    pub biases: Param<Option<Array>>,
    /// How `W` is quantized.
    pub format: Option<Format>,
    /// `b`
    #[param]
    pub bias: Param<Option<Array>>,
    /// `A`
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `B`
    #[param]
    pub lora_b: Param<Option<Array>>,
    /// How `A` and `B` enter.
    pub low_rank: LowRank,
}

/// Settings of the low-rank part.
#[derive(Debug, Clone, Default)]
pub struct LowRank {
    /// `s`, usually `alpha / rank`.
    pub scale: f32,
    /// Share of `x` that is zeroed before `A`; the rest is scaled up.
    pub dropout: f32,
    /// PRNG key of this step's dropout mask; `None` outside training.
    pub dropout_key: Option<Array>,
}

impl Linear {
    /// A layer of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(inputs: i32, outputs: i32, bias: bool) -> Result<Self> {
        let bias = if bias { Some(Array::zeros::<f32>(&[outputs])?) } else { None };
        Ok(Self {
            weight: Param::new(Array::zeros::<f32>(&[outputs, inputs])?),
            scales: Param::new(None),
            biases: Param::new(None),
            format: None,
            bias: Param::new(bias),
            lora_a: Param::new(None),
            lora_b: Param::new(None),
            low_rank: LowRank::default(),
        })
    }

    /// `(in, out)`
    #[must_use]
    pub fn size(&self) -> (i32, i32) {
        let (outputs, inputs) = self.matrix().shape();
        (inputs, outputs)
    }

    /// `W`
    #[must_use]
    pub fn matrix(&self) -> Weight<'_> {
        packed::weight(&self.weight, (*self.scales).as_ref(), (*self.biases).as_ref(), self.format)
    }

    /// The slots of `W`.
    pub fn slots(&mut self) -> Slots<'_> {
        Slots {
            weight: &mut self.weight,
            scales: &mut self.scales,
            biases: &mut self.biases,
            format: &mut self.format,
        }
    }

    /// `x`: `[..., in]` → `[..., out]`, in the dtype of `x`.
    ///
    /// # Errors
    /// A last dimension other than `in`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let [y] = forward_all(x, [self])?;
        Ok(y)
    }

    /// What the kernel takes, without the low-rank part when that has dropout.
    #[must_use]
    pub fn operands(&self) -> Layer<'_> {
        let low_rank = match (&*self.lora_a, &*self.lora_b) {
            (Some(a), Some(b)) if self.low_rank.dropout_key.is_none() => {
                Some(kernel::LowRank { a, b, scale: self.low_rank.scale })
            }
            _ => None,
        };
        Layer { weight: self.matrix(), bias: (*self.bias).as_ref(), low_rank }
    }

    /// `y + s·(dropout(x)·A)·B` where there is dropout, `y` otherwise. Its input differs from that of the
    /// other layers, so it cannot share their pass over `x`.
    fn add_dropped(&self, y: Array, x: &Array) -> Result<Array> {
        let LowRank { scale, dropout: p, dropout_key: Some(key) } = &self.low_rank else { return Ok(y) };
        let (Some(a), Some(b)) = (&*self.lora_a, &*self.lora_b) else { return Ok(y) };
        let x = dropout(&x.as_dtype(a.dtype())?, *p, key)?;
        let low = matmul(&matmul(&x, a, Transpose::NONE)?, b, Transpose::NONE)?;
        let low = low.multiply(Array::from_f32(*scale).as_dtype(low.dtype())?)?;
        y.add(low.as_dtype(y.dtype())?)
    }
}

/// Outputs of `layers` for the same `x`, which is read once for all of them.
///
/// # Errors
/// A last dimension of `x` that does not fit.
pub fn forward_all<const N: usize>(x: &Array, layers: [&Linear; N]) -> Result<[Array; N]> {
    let mut outputs = linears(x, &layers.map(Linear::operands))?;
    for (y, layer) in outputs.iter_mut().zip(layers) {
        *y = layer.add_dropped(y.clone(), x)?;
    }
    outputs.try_into().map_err(|_| Exception::custom("linear: one output per layer"))
}

/// Zeroes each element with probability `p` and divides the others by `1 - p`.
fn dropout(x: &Array, p: f32, key: &Array) -> Result<Array> {
    let keep = random::bernoulli(&Array::from_f32(1.0 - p), x.shape(), key)?;
    let scale = Array::from_f32(1.0 / (1.0 - p));
    x.multiply(keep.as_dtype(Dtype::Float32)?.multiply(scale)?.as_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use mlx_rs::module::ModuleParameters as _;

    use super::*;
    use crate::kernels::eval;

    fn layer() -> Linear {
        let mut layer = Linear::new(2, 3, true).unwrap();
        *layer.weight = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]);
        *layer.bias = Some(Array::from_slice(&[0.5_f32, 0.0, -0.5], &[3]));
        layer
    }

    fn values(x: &Array) -> Vec<f32> {
        eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn adds_bias_and_low_rank() {
        let mut layer = layer();
        let x = Array::from_slice(&[1.0_f32, -1.0], &[1, 2]);
        assert_eq!(values(&layer.forward(&x).unwrap()), [-0.5, -1.0, -1.5]);
        *layer.lora_a = Some(Array::from_slice(&[1.0_f32, 3.0], &[2, 1]));
        *layer.lora_b = Some(Array::from_slice(&[1.0_f32, 0.0, 2.0], &[1, 3]));
        layer.low_rank.scale = 0.5;
        // x·A = -2, times B and 0.5: [-1, 0, -2].
        assert_eq!(values(&layer.forward(&x).unwrap()), [-1.5, -1.0, -3.5]);
    }

    #[test]
    fn keys_are_those_of_a_checkpoint() {
        let mut layer = layer();
        let keys = |layer: &Linear| {
            let mut keys: Vec<String> =
                layer.parameters().flatten().keys().map(ToString::to_string).collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&layer), ["bias", "weight"]);
        *layer.lora_a = Some(Array::from_f32(0.0));
        assert_eq!(keys(&layer), ["bias", "lora_a", "weight"]);
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let x = Array::ones::<f32>(&[10_000]).unwrap();
        let y = values(&dropout(&x, 0.25, &random::key(3).unwrap()).unwrap());
        let mean = y.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!(y.iter().all(|&y| y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
    }
}
