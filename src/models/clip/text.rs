//! The text tower.

use mlx_macros::ModuleParameters;
use mlx_rs::{Array, Dtype};

use super::config::{Kind, TextConfig};
use super::encoder::Encoder;
use crate::kernels::attention::Mask;
use crate::kernels::embedding::embedding;
use crate::nn::layer::{Linears, prefixed};
use crate::nn::network::GradientCheckpointing;
use crate::nn::{Embedding, LayerNorm, Linear, Result};

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct TextTower {
    #[param]
    pub(super) embeddings: TextEmbeddings,
    #[param]
    encoder: Encoder,
    #[param]
    pub(super) final_layer_norm: LayerNorm,
    /// Projection to the features; that of CLIP belongs to the model.
    #[param]
    head: Option<Linear>,
    kind: Kind,
    /// See [`TextConfig::eos`].
    eos: i64,
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct TextEmbeddings {
    #[param]
    pub(super) token_embedding: Embedding,
    #[param]
    pub(super) position_embedding: Embedding,
}

/// Rows of token ids of one length, and where each is pooled.
#[derive(Debug, Clone)]
pub struct TextBatch {
    /// `[rows, length]`, int32.
    pub ids: Array,
    /// Row of `[rows · length]` that each text is pooled at: `[rows]`, int32.
    pub ends: Array,
}

impl TextTower {
    pub(super) fn new(kind: Kind, config: &TextConfig) -> Result<Self> {
        let hidden = config.tower.hidden;
        let (mask, head) = match kind {
            Kind::Clip => (Mask::Causal, None),
            Kind::Siglip => (Mask::Full, Some(Linear::new(hidden, config.projection, true)?)),
        };
        Ok(Self {
            embeddings: TextEmbeddings {
                token_embedding: Embedding::new(config.vocab, hidden)?,
                position_embedding: Embedding::new(config.context, hidden)?,
            },
            encoder: Encoder::new(&config.tower, mask)?,
            final_layer_norm: LayerNorm::new(hidden, config.tower.norm_eps)?,
            head,
            kind,
            eos: config.eos,
        })
    }

    /// Longest text, in tokens.
    pub(super) fn context(&self) -> i32 {
        self.embeddings.position_embedding.table().shape().0
    }

    /// Finds where `ids`, row-major `[rows, length]`, are pooled. A causal tower never sees what comes after that: the
    /// columns that no row needs are left out.
    pub(super) fn batch(&self, ids: &[u32], rows: usize) -> TextBatch {
        let length = ids.len() / rows.max(1);
        let row = |i: usize| &ids[i * length..(i + 1) * length];
        let ends: Vec<usize> = (0..rows).map(|i| self.end(row(i))).collect();
        let used = match self.kind {
            Kind::Clip => ends.iter().max().map_or(length, |last| last + 1),
            Kind::Siglip => length,
        };
        let kept: Vec<i32> = (0..rows).flat_map(|i| row(i)[..used].iter().map(|&id| id as i32)).collect();
        let ends: Vec<i32> = ends.iter().enumerate().map(|(i, end)| (i * used + end) as i32).collect();
        TextBatch {
            ids: Array::from_slice(&kept, &[rows as i32, used as i32]),
            ends: Array::from_slice(&ends, &[rows as i32]),
        }
    }

    /// The position that a text is pooled at.
    fn end(&self, row: &[u32]) -> usize {
        match (self.kind, self.eos) {
            (Kind::Siglip, _) => row.len().saturating_sub(1),
            // The id that configurations have had by mistake: the end of a text is its token of the highest id.
            (Kind::Clip, 2) => {
                let best = row.iter().enumerate().max_by_key(|&(i, id)| (id, std::cmp::Reverse(i)));
                best.map_or(0, |(i, _)| i)
            }
            (Kind::Clip, eos) => row.iter().position(|&id| i64::from(id) == eos).unwrap_or(0),
        }
    }

    /// → pooled states, `[rows, hidden]`; of `SigLIP` features.
    pub(super) fn forward(
        &self,
        batch: &TextBatch,
        dtype: Dtype,
        checkpointing: Option<&GradientCheckpointing>,
    ) -> Result<Array> {
        let positions = Array::arange::<_, i32>(None, batch.ids.dim(1), None)?;
        let tokens = self.embeddings.token_embedding.forward(&batch.ids, dtype)?;
        let x = tokens.add(self.embeddings.position_embedding.forward(&positions, dtype)?)?;
        let x = self.encoder.forward(&x, "text_model.encoder", checkpointing)?;
        // The norm is of each position alone.
        let pooled = embedding(&x.reshape(&[-1, x.dim(2)])?, &batch.ends)?;
        let pooled = self.final_layer_norm.forward(&pooled)?;
        self.head.as_ref().map_or(Ok(pooled.clone()), |head| head.forward(&pooled))
    }

    pub(super) fn linears(&mut self) -> Linears<'_> {
        let mut linears = prefixed("encoder", self.encoder.linears());
        linears.extend(self.head.as_mut().map(|head| ("head".to_owned(), head)));
        linears
    }
}
