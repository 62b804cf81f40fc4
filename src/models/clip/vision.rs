//! The image tower: a vision transformer ([ViT](https://arxiv.org/abs/2010.11929)).

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{broadcast_to, concatenate};
use mlx_rs::{Array, Dtype};

use super::config::{Kind, VisionConfig};
use super::encoder::Encoder;
use super::pooling::AttentionPooling;
use crate::kernels::attention::Mask;
use crate::nn::layer::{Linears, prefixed};
use crate::nn::network::GradientCheckpointing;
use crate::nn::{Conv2d, Embedding, LayerNorm, Result};

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct VisionTower {
    #[param]
    pub(super) embeddings: VisionEmbeddings,
    /// Spelled as in checkpoints.
    #[param]
    pre_layrnorm: Option<LayerNorm>,
    #[param]
    encoder: Encoder,
    #[param]
    post_layernorm: LayerNorm,
    #[param]
    pub(super) head: Option<AttentionPooling>,
}

#[derive(Debug, Clone, ModuleParameters)]
#[expect(clippy::struct_field_names, reason = "names of the checkpoint")]
pub(super) struct VisionEmbeddings {
    /// State of the class token, `[hidden]`.
    #[param]
    class_embedding: Param<Option<Array>>,
    #[param]
    patch_embedding: Conv2d,
    /// One row per position, that of the class token first.
    #[param]
    pub(super) position_embedding: Embedding,
}

impl VisionTower {
    pub(super) fn new(kind: Kind, config: &VisionConfig) -> Result<Self> {
        let VisionConfig { tower, channels, patch_size, .. } = config;
        let is_clip = kind == Kind::Clip;
        let norm = || LayerNorm::new(tower.hidden, tower.norm_eps);
        let class = if is_clip { Some(Array::zeros::<f32>(&[tower.hidden])?) } else { None };
        let positions = config.grid() * config.grid() + i32::from(is_clip);
        let stride = patch_size.unsigned_abs() as usize;
        Ok(Self {
            embeddings: VisionEmbeddings {
                class_embedding: Param::new(class),
                patch_embedding: Conv2d::new(*channels, tower.hidden, *patch_size, stride, !is_clip)?,
                position_embedding: Embedding::new(positions, tower.hidden)?,
            },
            pre_layrnorm: if is_clip { Some(norm()?) } else { None },
            encoder: Encoder::new(tower, Mask::Full)?,
            post_layernorm: norm()?,
            head: if is_clip { None } else { Some(AttentionPooling::new(tower)?) },
        })
    }

    /// `images`: `[batch, height, width, 3]`, normalized → pooled states, `[batch, hidden]`.
    pub(super) fn forward(
        &self,
        images: &Array,
        dtype: Dtype,
        checkpointing: Option<&GradientCheckpointing>,
    ) -> Result<Array> {
        let mut x = self.embeddings.forward(images, dtype)?;
        if let Some(norm) = &self.pre_layrnorm {
            x = norm.forward(&x)?;
        }
        let x = self.encoder.forward(&x, "vision_model.encoder", checkpointing)?;
        match &self.head {
            // The norm is of each position alone.
            None => self.post_layernorm.forward(&x.try_index((.., 0))?),
            Some(head) => head.forward(&self.post_layernorm.forward(&x)?),
        }
    }

    pub(super) fn linears(&mut self) -> Linears<'_> {
        let mut linears = prefixed("encoder", self.encoder.linears());
        linears.extend(self.head.iter_mut().flat_map(|head| prefixed("head", head.linears())));
        linears
    }
}

impl VisionEmbeddings {
    /// → `[batch, positions, hidden]`.
    fn forward(&self, images: &Array, dtype: Dtype) -> Result<Array> {
        let patches = self.patch_embedding.forward(images)?.as_dtype(dtype)?;
        let (batch, hidden) = (patches.dim(0), patches.dim(3));
        let mut x = patches.reshape(&[batch, -1, hidden])?;
        if let Some(class) = &*self.class_embedding {
            let class = broadcast_to(class.as_dtype(dtype)?, &[batch, 1, hidden])?;
            x = concatenate(&[class, x], 1)?;
        }
        let count = self.position_embedding.table().shape().0;
        let positions = Array::arange::<_, i32>(None, count, None)?;
        x.add(self.position_embedding.forward(&positions, dtype)?)
    }
}
