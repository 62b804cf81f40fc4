//! Token embeddings.

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype, random};

use super::Result;
use super::quantized::{WeightMut, weight};
use crate::kernels::embedding::embedding;
use crate::kernels::linear::{Layer, Weight};
use crate::kernels::quantized::{self, Format};

/// A table of vectors, `weight`: `[vocab, hidden]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// One row per token, or the codes of a quantized table.
    #[param]
    pub weight: Param<Array>,
    /// Factors of the groups of a quantized table.
    #[param]
    pub scales: Param<Option<Array>>,
    /// Summands of the groups of a quantized table.
    #[param]
    pub biases: Param<Option<Array>>,
    /// How the table is quantized.
    pub format: Option<Format>,
    /// What is added in training.
    pub noise: Option<Noise>,
}

/// Noise on embeddings ([NEFTune](https://arxiv.org/abs/2310.05914)): uniform between `±alpha / √(time · hidden)`.
#[derive(Debug, Clone)]
pub struct Noise {
    /// Strength.
    pub alpha: f32,
    /// PRNG key.
    pub key: Array,
}

impl Noise {
    /// `x`: `[batch, time, hidden]` with noise.
    fn on(&self, x: &Array) -> Result<Array> {
        let numbers: i32 = x.shape().iter().skip(1).product();
        let bound = self.alpha / (numbers as f32).sqrt();
        let noise = random::uniform::<_, f32>(-bound, bound, x.shape(), &self.key)?;
        x.add(noise.as_dtype(x.dtype())?)
    }
}

impl Embedding {
    /// A table of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(vocab: i32, hidden: i32) -> Result<Self> {
        Ok(Self {
            weight: Param::new(Array::zeros::<f32>(&[vocab, hidden])?),
            scales: Param::new(None),
            biases: Param::new(None),
            format: None,
            noise: None,
        })
    }

    /// `ids`: `[...]` of integers below `vocab` → `[..., hidden]` in the dtype of the table, or in `dtype` when
    /// it is quantized.
    ///
    /// # Errors
    /// What MLX raises. An id out of range is an error of `eval` on the CPU, and not noticed on a GPU.
    pub fn forward(&self, ids: &Array, dtype: Dtype) -> Result<Array> {
        let vectors = match self.table() {
            Weight::Dense(table) => embedding(table, ids),
            Weight::Packed(table) => quantized::embedding(table, ids, dtype),
        }?;
        self.noise.as_ref().map_or(Ok(vectors.clone()), |noise| noise.on(&vectors))
    }

    /// The table, `[vocab, hidden]`.
    #[must_use]
    pub fn table(&self) -> Weight<'_> {
        weight(&self.weight, (*self.scales).as_ref(), (*self.biases).as_ref(), self.format)
    }

    /// The slots of the table.
    pub fn weight_mut(&mut self) -> WeightMut<'_> {
        WeightMut {
            weight: &mut self.weight,
            scales: &mut self.scales,
            biases: &mut self.biases,
            format: &mut self.format,
        }
    }

    /// The table as output head: `[..., hidden]` → logits `[..., vocab]`.
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
