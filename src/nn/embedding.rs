//! Token embeddings.

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype, random};

use super::Result;
use super::quantized::{WeightMut, weight};
use crate::kernels::embedding::embedding;
use crate::kernels::linear::{Layer, Weight};
use crate::kernels::quantized::{self, Format};

/// Embedding table, `weight`: `[vocab, hidden]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// One row per token, or the codes of a quantized table.
    #[param]
    pub weight: Param<Array>,
    /// Scales of a quantized table, one per group.
    #[param]
    pub scales: Param<Option<Array>>,
    /// Biases of a quantized table, one per group.
    #[param]
    pub biases: Param<Option<Array>>,
    /// Quantization format; `None` for a dense table.
    pub format: Option<Format>,
    /// Noise added in training.
    pub noise: Option<Noise>,
}

/// Noise on embeddings ([NEFTune](https://arxiv.org/abs/2310.05914)): uniform in `±alpha / √(time · hidden)`.
#[derive(Debug, Clone)]
pub struct Noise {
    /// Noise scale.
    pub alpha: f32,
    /// PRNG key.
    pub key: Array,
}

impl Noise {
    /// Adds noise to `x`: `[batch, time, hidden]`.
    fn on(&self, x: &Array) -> Result<Array> {
        let numbers: i32 = x.shape().iter().skip(1).product();
        let bound = self.alpha / (numbers as f32).sqrt();
        let noise = random::uniform::<_, f32>(-bound, bound, x.shape(), &self.key)?;
        x.add(noise.as_dtype(x.dtype())?)
    }
}

impl Embedding {
    /// Creates a table of zeros.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(vocab: i32, hidden: i32) -> Result<Self> {
        Ok(Self {
            weight: Param::new(Array::zeros::<f32>(&[vocab, hidden])?),
            scales: Param::new(None),
            biases: Param::new(None),
            format: None,
            noise: None,
        })
    }

    /// `ids`: integers below `vocab`, `[...]` → embeddings `[..., hidden]`, in the dtype of the table, or in
    /// `dtype` if it is quantized.
    ///
    /// # Errors
    /// Errors from MLX. An id out of range is an error of `eval` on the CPU and is not detected on a GPU.
    pub fn forward(&self, ids: &Array, dtype: Dtype) -> Result<Array> {
        let vectors = match self.table() {
            Weight::Dense(table) => embedding(table, ids),
            Weight::Packed(table) => quantized::embedding(table, ids, dtype),
            Weight::Sparse(table) => embedding(&table.to_dense(dtype)?, ids),
        }?;
        self.noise.as_ref().map_or(Ok(vectors.clone()), |noise| noise.on(&vectors))
    }

    /// Returns the table, `[vocab, hidden]`.
    #[must_use]
    pub fn table(&self) -> Weight<'_> {
        weight(&self.weight, (*self.scales).as_ref(), (*self.biases).as_ref(), self.format)
    }

    /// Returns the table for in-place quantization.
    pub fn weight_mut(&mut self) -> WeightMut<'_> {
        WeightMut {
            weight: &mut self.weight,
            scales: &mut self.scales,
            biases: &mut self.biases,
            format: &mut self.format,
        }
    }

    /// Returns the table as output head: `[..., hidden]` → logits `[..., vocab]`.
    #[must_use]
    pub fn as_linear(&self) -> Layer<'_> {
        Layer::plain(self.table())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_bounded_as_in_the_paper_and_that_of_its_key() {
        let mut table = Embedding::new(8, 4).unwrap();
        let ids = Array::from_slice(&[0_u32; 32], &[2, 16]);
        let with =
            |table: &Embedding| table.forward(&ids, Dtype::Float32).unwrap().as_slice::<f32>().to_vec();
        assert!(with(&table).iter().all(|&x| x == 0.0));
        table.noise = Some(Noise { alpha: 5.0, key: random::key(1).unwrap() });
        let noise = with(&table);
        // α / √(L d) = 5 / √(16 · 4)
        assert!(noise.iter().all(|x| x.abs() <= 0.625));
        let variance = noise.iter().map(|x| x * x).sum::<f32>() / noise.len() as f32;
        assert!((variance - 0.625 * 0.625 / 3.0).abs() < 0.03, "{variance}");
        assert_eq!(noise, with(&table));
        table.noise = Some(Noise { alpha: 5.0, key: random::key(2).unwrap() });
        assert_ne!(noise, with(&table));
    }
}
