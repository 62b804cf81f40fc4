//! The linear layer of every model: dense, quantized or sparse, with or without an adapter.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Param;

use super::quantized::{self, WeightMut};
use super::row_adapters::{LayerUpdate, RowAdapters, Target};
use super::tap::{self, Tap};
use super::{Embedding, Result};
use crate::kernels::chunked_logits::map_logits;
use crate::kernels::cross_entropy::{Options, cross_entropy_of_logits, cross_entropy_rows};
use crate::kernels::linear::{Layer, Weight, linears};
use crate::kernels::quantized::Format;
use crate::kernels::sparse::{SparseMatrix, Unpacked};

pub mod dora;
mod low_rank;

pub use low_rank::LowRank;
use low_rank::Matrices;

/// Applies an affine transformation with an optional low-rank update
/// ([LoRA](https://arxiv.org/abs/2106.09685)): `y = x·Wᵀ + b + s·(x·A)·B`; with a magnitude `m`, that of
/// [`DoRA`](dora).
///
/// | parameter | shape |
/// |---|---|
/// | `weight` | `[out, in]`, or the codes of a quantized weight |
/// | `scales`, `biases` | `[out, in/group_size]`, of a quantized weight |
/// | `bias` | `[out]` |
/// | `lora_a`, `lora_b` | `[in, rank]`, `[rank, out]` |
/// | `lora_e` | `[rank]`, factors of the rows of `B` ([AdaLoRA](https://arxiv.org/abs/2303.10512)) |
/// | `m` | `[out]` |
///
/// Parameters are optional so that the keys of a checkpoint are the same with and without an adapter.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Linear {
    /// `W`, or its codes.
    #[param]
    pub weight: Param<Array>,
    /// Scales of a quantized weight, one per group.
    #[param]
    pub scales: Param<Option<Array>>,
    /// Biases of a quantized weight, one per group.
    #[param]
    pub biases: Param<Option<Array>>,
    /// Quantization format; `None` for a dense weight.
    pub format: Option<Format>,
    /// `b`.
    #[param]
    pub bias: Param<Option<Array>>,
    /// `A`.
    #[param]
    pub lora_a: Param<Option<Array>>,
    /// `B`.
    #[param]
    pub lora_b: Param<Option<Array>>,
    /// `E`, singular values.
    #[param]
    pub lora_e: Param<Option<Array>>,
    /// `m`, the norm of each row of the adapted weight.
    #[param]
    pub m: Param<Option<Array>>,
    /// The weight, if it is [packed](Self::pack_sparse) as one with many zeros; `weight` is then its array.
    pub sparse: Option<SparseMatrix>,
    /// Settings of the low-rank update.
    pub low_rank: LowRank,
    /// Observes the inputs.
    pub tap: Option<Tap>,
    /// Key path in its model; empty outside of one.
    pub path: String,
}

impl Linear {
    /// Creates a layer of zeros.
    ///
    /// # Errors
    /// Errors from MLX.
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
            lora_e: Param::new(None),
            m: Param::new(None),
            sparse: None,
            low_rank: LowRank::default(),
            tap: None,
            path: String::new(),
        })
    }

    /// Creates an output head with the weight of `table`.
    #[must_use]
    pub fn from_embedding(table: &Embedding) -> Self {
        Self {
            weight: table.weight.clone(),
            scales: table.scales.clone(),
            biases: table.biases.clone(),
            format: table.format,
            bias: Param::new(None),
            lora_a: Param::new(None),
            lora_b: Param::new(None),
            lora_e: Param::new(None),
            m: Param::new(None),
            sparse: None,
            low_rank: LowRank::default(),
            tap: None,
            path: String::new(),
        }
    }

    /// Returns `(in, out)`.
    #[must_use]
    pub fn size(&self) -> (i32, i32) {
        let (outputs, inputs) = self.matrix().shape();
        (inputs, outputs)
    }

    /// Returns `W`.
    #[must_use]
    pub fn matrix(&self) -> Weight<'_> {
        if let Some(matrix) = &self.sparse {
            return Weight::Sparse(matrix);
        }
        quantized::weight(&self.weight, (*self.scales).as_ref(), (*self.biases).as_ref(), self.format)
    }

    /// Packs `W` as a matrix with many zeros, which decoding reads faster; see
    /// [`Weight::to_sparse`]. What changes it afterwards unpacks it first.
    ///
    /// # Errors
    /// A weight that cannot be packed.
    pub fn pack_sparse(&mut self) -> Result<()> {
        let matrix = self.matrix().to_sparse()?;
        *self.weight = matrix.data().clone();
        self.sparse = Some(matrix);
        Ok(())
    }

    /// Undoes [`pack_sparse`](Self::pack_sparse).
    pub fn unpack_sparse(&mut self) {
        if let Some(matrix) = self.sparse.take() {
            *self.weight = match matrix.unpack() {
                Unpacked::Dense(weight) => weight,
                Unpacked::Quantized(codes, ..) => codes,
            };
        }
    }

    /// Returns `W` to be changed in place; a sparse one is unpacked.
    pub fn weight_mut(&mut self) -> WeightMut<'_> {
        self.unpack_sparse();
        WeightMut {
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

    /// As an output head, computes weighted sums of the cross-entropy of its outputs; see [`cross_entropy_rows`].
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn cross_entropy_rows(
        &self,
        hidden: &Array,
        targets: &Array,
        weights: &Array,
        options: Options,
    ) -> Result<Array> {
        if self.m.is_some() || self.low_rank.dropout_key.is_some() {
            // More than the kernel knows.
            return cross_entropy_of_logits(&self.forward(hidden)?, targets, weights, options);
        }
        let low = self.undropped()?;
        cross_entropy_rows(hidden, &self.adapted(low.as_ref()), targets, weights, options)
    }

    /// As an output head, applies a function to its outputs for some positions at a time; see [`map_logits`].
    ///
    /// # Errors
    /// Incompatible shapes; errors of `function`.
    pub fn map_logits<F>(
        &self,
        hidden: &Array,
        others: &[Array],
        limits: (usize, bool),
        function: F,
    ) -> Result<Array>
    where
        F: Fn(&Array, &[Array]) -> Result<Array> + Clone + Send + 'static,
    {
        if self.m.is_some() || self.low_rank.dropout_key.is_some() {
            // More than the kernel knows.
            return function(&self.forward(hidden)?, others);
        }
        let low = self.undropped()?;
        map_logits(hidden, &self.adapted(low.as_ref()), others, limits, function)
    }

    /// What the attached adapter adds outside of training.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn update(&self) -> Result<Option<LayerUpdate>> {
        let Some(Matrices { a, b }) = self.undropped()? else { return Ok(None) };
        let factor = if self.m.is_some() { Some(self.row_scale()?) } else { None };
        Ok(Some(LayerUpdate { a: a.into_owned(), b: b.into_owned(), scale: self.low_rank.scale, factor }))
    }

    /// Returns the operands of the layer with the low-rank update `low`; without the bias if a magnitude is
    /// applied before it.
    fn adapted<'a>(&'a self, low: Option<&'a Matrices>) -> Layer<'a> {
        let base = Layer { weight: self.matrix(), bias: (*self.bias).as_ref(), low_rank: None };
        let Some(low) = low else { return base };
        let bias = if self.m.is_some() { None } else { base.bias };
        Layer { bias, low_rank: Some(low.operand(self.low_rank.scale)), ..base }
    }

    /// Applies dropout, magnitude and bias to `y`, the output of the kernel for [`adapted`](Self::adapted).
    fn finish(&self, y: Array, x: &Array) -> Result<Array> {
        match (&*self.m, &self.low_rank.dropout_key) {
            (None, None) => Ok(y),
            (None, Some(key)) => {
                let Some(low) = self.trained()? else { return Ok(y) };
                let low = low.product(&self.dropped(x, key)?, self.low_rank.scale)?;
                y.add(low.as_dtype(y.dtype())?)
            }
            (Some(_), None) => {
                let y = self.scale_rows(&y)?;
                (*self.bias).as_ref().map_or(Ok(y.clone()), |bias| y.add(bias.as_dtype(y.dtype())?))
            }
            (Some(_), Some(key)) => self.scale_rows_with_dropout(&y, x, key),
        }
    }
}

/// Applies several layers to the same `x`, which is read only once.
///
/// # Errors
/// A last dimension of `x` that does not fit.
pub fn forward_all<const N: usize>(x: &Array, layers: [&Linear; N]) -> Result<[Array; N]> {
    tap::record(x, layers.iter().filter_map(|layer| layer.tap.as_ref()));
    if let Some(rows) = RowAdapters::current() {
        return forward_rows(x, layers, &rows);
    }
    let low = layers.iter().map(|layer| layer.undropped()).collect::<Result<Vec<_>>>()?;
    let adapted: Vec<Layer> =
        layers.iter().zip(&low).map(|(layer, low)| layer.adapted(low.as_ref())).collect();
    let mut outputs = linears(x, &adapted)?;
    for (y, layer) in outputs.iter_mut().zip(layers) {
        *y = layer.finish(y.clone(), x)?;
    }
    one_each(outputs)
}

/// The same for rows with adapters of their own.
fn forward_rows<const N: usize>(x: &Array, layers: [&Linear; N], rows: &RowAdapters) -> Result<[Array; N]> {
    let plain = layers.map(|layer| layer.adapted(None));
    let keeps_attached = rows.keeps_attached();
    let targets: Result<Vec<Target>> = (layers.iter().zip(&plain))
        .map(|(layer, plain)| {
            let attached = if keeps_attached { layer.update()? } else { None };
            Ok(Target { path: &layer.path, bias: plain.bias, attached })
        })
        .collect();
    one_each(rows.update(x, linears(x, &plain)?, &targets?)?)
}

fn one_each<const N: usize>(outputs: Vec<Array>) -> Result<[Array; N]> {
    outputs.try_into().map_err(|_| Exception::custom("linear: one output per layer"))
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
}
