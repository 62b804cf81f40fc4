//! The two towers together.

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::config::{Kind, ModelConfig};
use super::pooling::AttentionPooling;
use super::positions::{self, Interpolation};
use super::text::{TextBatch, TextTower};
use super::vision::VisionTower;
use super::{layout, open_clip};
use crate::kernels::matmul::{Transpose, matmul};
use crate::nn::layer::prefixed;
use crate::nn::network::GradientCheckpointing;
use crate::nn::quantized::WeightMut;
use crate::nn::{self, Linear, Network, Overrides};
use crate::params::Tensors;
use crate::{Error, Result};

/// Images and texts → features, `[rows, dim]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Clip {
    #[param]
    pub(super) text_model: TextTower,
    #[param]
    pub(super) vision_model: VisionTower,
    #[param]
    text_projection: Option<Linear>,
    #[param]
    visual_projection: Option<Linear>,
    /// Logarithm of what similarities are multiplied by, a scalar.
    #[param]
    logit_scale: Param<Array>,
    /// Added to the logits of `SigLIP`, a scalar.
    #[param]
    logit_bias: Param<Option<Array>>,
    kind: Kind,
    image_size: i32,
    patch_size: i32,
    dim: i32,
    vocab: i32,
    checkpointing: Option<GradientCheckpointing>,
    overrides: Overrides,
}

impl Clip {
    /// Creates a model of zeros.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn new(config: &ModelConfig) -> Result<Self> {
        let ModelConfig { kind, text, vision, logit_scale } = config;
        let projection = |hidden: i32| match kind {
            Kind::Clip => Linear::new(hidden, text.projection, false).map(Some),
            Kind::Siglip => Ok(None),
        };
        let dim = text.projection;
        if *kind == Kind::Siglip && vision.tower.hidden != dim {
            return Err(Error::ModelLoading(format!(
                "the features of images have {} numbers and those of texts {dim}; \"projection_size\" of text_config has to \
                 be the \"hidden_size\" of vision_config",
                vision.tower.hidden
            )));
        }
        Ok(Self {
            text_model: TextTower::new(*kind, text)?,
            vision_model: VisionTower::new(*kind, vision)?,
            text_projection: projection(text.tower.hidden)?,
            visual_projection: projection(vision.tower.hidden)?,
            logit_scale: Param::new(Array::from_f32(*logit_scale)),
            logit_bias: Param::new((*kind == Kind::Siglip).then(|| Array::from_f32(0.0))),
            kind: *kind,
            image_size: vision.image_size,
            patch_size: vision.patch_size,
            dim,
            vocab: text.vocab,
            checkpointing: None,
            overrides: Overrides::default(),
        })
    }

    /// `images`: `[batch, height, width, 3]`, normalized → features `[batch, dim]`, not of unit length.
    ///
    /// # Errors
    /// Images of another size than [`image_size`](Self::image_size).
    pub fn image_features(&self, images: &Array) -> nn::Result<Array> {
        let pooled = self.vision_model.forward(images, self.dtype(), self.checkpointing.as_ref())?;
        self.visual_projection.as_ref().map_or(Ok(pooled.clone()), |layer| layer.forward(&pooled))
    }

    /// → features `[rows, dim]`, not of unit length.
    ///
    /// # Errors
    /// Texts longer than [`context`](Self::context).
    pub fn text_features(&self, texts: &TextBatch) -> nn::Result<Array> {
        let pooled = self.text_model.forward(texts, self.dtype(), self.checkpointing.as_ref())?;
        self.text_projection.as_ref().map_or(Ok(pooled.clone()), |layer| layer.forward(&pooled))
    }

    /// Rows of token ids, row-major `[rows, length]`, as [`text_features`](Self::text_features) takes them.
    ///
    /// # Errors
    /// Ids that the model does not have, or more of them than its context.
    pub fn text_batch(&self, ids: &[u32], rows: usize) -> Result<TextBatch> {
        let length = ids.len() / rows.max(1);
        if length == 0 || length > self.context() as usize {
            return Err(Error::Config(format!(
                "texts have {length} tokens, expected 1 to {}, the context of the model",
                self.context()
            )));
        }
        if let Some(id) = ids.iter().find(|id| **id >= self.vocab.unsigned_abs()) {
            return Err(Error::Config(format!(
                "texts hold the token {id}, expected 0 to {}",
                self.vocab - 1
            )));
        }
        Ok(self.text_model.batch(ids, rows))
    }

    /// Scaled similarities of features of unit length, `[images, dim]` and `[texts, dim]` → `[images, texts]`, float32.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn logits(&self, images: &Array, texts: &Array) -> nn::Result<Array> {
        let [images, texts] = [images.as_dtype(Dtype::Float32)?, texts.as_dtype(Dtype::Float32)?];
        let scale = self.logit_scale.as_dtype(Dtype::Float32)?.exp()?;
        let logits = matmul(&images, &texts, Transpose::B)?.multiply(scale)?;
        match &*self.logit_bias {
            Some(bias) => logits.add(bias.as_dtype(Dtype::Float32)?),
            None => Ok(logits),
        }
    }

    /// Logarithm of what similarities are multiplied by, a scalar.
    #[must_use]
    pub fn logit_scale(&self) -> &Array {
        &self.logit_scale
    }

    /// Added to logits, a scalar; `None` of CLIP.
    #[must_use]
    pub fn logit_bias(&self) -> Option<&Array> {
        (*self.logit_bias).as_ref()
    }

    /// Side of images in pixels.
    #[must_use]
    pub fn image_size(&self) -> i32 {
        self.image_size
    }

    /// Longest text, in tokens.
    #[must_use]
    pub fn context(&self) -> i32 {
        self.text_model.context()
    }

    /// Size of features.
    #[must_use]
    pub fn dim(&self) -> i32 {
        self.dim
    }

    /// Which of the two architectures.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes images of `image_size` from now on, with interpolated position embeddings.
    ///
    /// # Errors
    /// A size below that of a patch; quantized position embeddings.
    pub fn set_image_size(&mut self, image_size: i32, interpolation: Interpolation) -> Result<()> {
        if !(self.patch_size..=1 << 14).contains(&image_size) {
            return Err(Error::Config(format!(
                "image_size is {image_size}, expected {} (one patch) to {}",
                self.patch_size,
                1 << 14
            )));
        }
        let table = &mut self.vision_model.embeddings.position_embedding;
        let grid = image_size / self.patch_size;
        if grid != self.image_size / self.patch_size {
            if table.format.is_some() {
                return Err(Error::Config(
                    "position embeddings are quantized: images can only have the size of the checkpoint"
                        .into(),
                ));
            }
            let extra = i32::from(self.kind == Kind::Clip);
            *table.weight = positions::resize(&table.weight, extra, grid, interpolation)?;
        }
        self.image_size = image_size;
        Ok(())
    }
}

/// Divides each row by its length: `[rows, dim]`, in float32.
///
/// # Errors
/// Errors from MLX.
pub fn normalized(features: &Array) -> nn::Result<Array> {
    let features = features.as_dtype(Dtype::Float32)?;
    let square = features.square()?.sum_axis(-1, true)?;
    // The bound is that of PyTorch's `normalize`.
    features.divide(mlx_rs::ops::maximum(square.sqrt()?, Array::from_f32(1e-12))?)
}

impl Network for Clip {
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        let mut linears = prefixed("text_model", self.text_model.linears());
        linears.extend(prefixed("vision_model", self.vision_model.linears()));
        linears.extend(self.text_projection.as_mut().map(|layer| ("text_projection".to_owned(), layer)));
        linears.extend(self.visual_projection.as_mut().map(|layer| ("visual_projection".to_owned(), layer)));
        linears.into_iter().try_for_each(|(path, layer)| visit(&path, layer))
    }

    fn visit_quantizable(&mut self, visit: &mut dyn FnMut(&str, WeightMut) -> Result<()>) -> Result<()> {
        let tokens = &mut self.text_model.embeddings;
        visit("text_model.embeddings.token_embedding", tokens.token_embedding.weight_mut())?;
        visit("text_model.embeddings.position_embedding", tokens.position_embedding.weight_mut())?;
        let images = &mut self.vision_model.embeddings;
        visit("vision_model.embeddings.position_embedding", images.position_embedding.weight_mut())?;
        let pooling = self.vision_model.head.iter_mut().flat_map(AttentionPooling::all_linears);
        for (name, layer) in pooling.filter(|(name, _)| name.starts_with("attention")) {
            visit(&format!("vision_model.head.{name}"), layer.weight_mut())?;
        }
        self.visit_linears(&mut |path, layer| visit(path, layer.weight_mut()))
    }

    fn overrides_mut(&mut self) -> Option<&mut Overrides> {
        Some(&mut self.overrides)
    }

    fn set_gradient_checkpointing(&mut self, checkpointing: Option<GradientCheckpointing>) {
        self.checkpointing = checkpointing;
    }

    fn dtype(&self) -> Dtype {
        self.text_model.final_layer_norm.weight.dtype()
    }

    fn computes(&self, key: &str) -> bool {
        // Indices that older checkpoints store.
        key.ends_with(".position_ids")
    }

    fn keeps_dtype(&self, name: &str) -> bool {
        matches!(name, "logit_scale" | "logit_bias")
    }

    fn update_config(&self, config: &mut Value) {
        config["vision_config"]["image_size"] = self.image_size.into();
    }

    fn map_weight(&self, name: &str, tensor: Array) -> nn::Result<Vec<(String, Array)>> {
        match open_clip::map_weight(name, &tensor)? {
            Some(parameters) => Ok(parameters),
            None => layout::map_weight(name, tensor),
        }
    }

    fn export(&self, parameters: Tensors) -> nn::Result<Tensors> {
        layout::export(parameters)
    }
}
