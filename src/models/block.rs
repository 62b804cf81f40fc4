//! Transformer blocks: their interface, and the one of most architectures, with pre-normalization.

use mlx_macros::ModuleParameters;
use mlx_rs::module::ModuleParameters;

use super::configuration::Shape;
use super::outline::BlockOutline;
use crate::nn::layer::{FeedForward, Linears, Mixer, prefixed};
use crate::nn::scaling::Scaling;
use crate::nn::units::Units;
use crate::nn::{self, Context, Heads, KvCache, LayerCache, Residual, RmsNorm};

/// A transformer block.
pub(super) trait Block: ModuleParameters + Clone + Send + 'static {
    /// Whether control flow depends on data, so that a graph cannot be reused.
    const DATA_DEPENDENT: bool = false;

    /// Adds the outputs of its layers to `x`: `[batch, time, hidden]`.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()>;

    /// Returns all linear layers, in order.
    fn linears(&mut self) -> Linears<'_>;

    /// Returns the channels that only linear layers read.
    fn scalings(&self) -> Vec<Scaling>;

    /// Hyperparameters of its attention, if it has any.
    fn heads(&self) -> Option<&Heads>;

    /// The groups of heads of its attention, if it has any.
    fn groups(&self) -> Option<Units>;

    /// The channels of its feed-forward layer; `None` of experts.
    fn channels(&self) -> Option<Units>;

    /// What it computes besides its parameters; `None` for what [`BlockOutline`] cannot say.
    fn outline(&self) -> Option<BlockOutline> {
        None
    }

    /// Creates an empty cache for a sequence of which `planned` tokens are known in advance.
    fn new_cache(&self, planned: i32) -> LayerCache {
        LayerCache::Kv(KvCache::new(planned))
    }
}

/// `x += self_attn(norm(x)); x += mlp(norm(x))`, with Llama's parameter names.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct PreNormBlock<A: Mixer, F: FeedForward> {
    #[param]
    self_attn: A,
    #[param]
    mlp: F,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

impl<A: Mixer, F: FeedForward> PreNormBlock<A, F> {
    /// Creates a block with norms of the hidden size of `shape`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn new(shape: &Shape, self_attn: A, mlp: F) -> nn::Result<Self> {
        Ok(Self {
            self_attn,
            mlp,
            input_layernorm: shape.norm(shape.hidden)?,
            post_attention_layernorm: shape.norm(shape.hidden)?,
        })
    }
}

impl<A: Mixer + Clone, F: FeedForward> Block for PreNormBlock<A, F> {
    const DATA_DEPENDENT: bool = F::DATA_DEPENDENT;

    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()> {
        let attended = self.self_attn.forward(&x.normed(&self.input_layernorm)?, context)?;
        x.add(attended)?;
        let transformed = self.mlp.forward(&x.normed(&self.post_attention_layernorm)?)?;
        x.add(transformed)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = prefixed("self_attn", self.self_attn.linears());
        layers.extend(prefixed("mlp", self.mlp.linears()));
        layers
    }

    fn scalings(&self) -> Vec<Scaling> {
        let attention = self.self_attn.flow().prefixed("self_attn");
        let mlp = self.mlp.flow().prefixed("mlp");
        let mut scalings = attention.behind("input_layernorm", &self.input_layernorm);
        scalings.extend(mlp.behind("post_attention_layernorm", &self.post_attention_layernorm));
        scalings
    }

    fn heads(&self) -> Option<&Heads> {
        self.self_attn.heads()
    }

    fn groups(&self) -> Option<Units> {
        self.self_attn.groups().map(|groups| groups.prefixed("self_attn"))
    }

    fn channels(&self) -> Option<Units> {
        self.mlp.channels().map(|channels| channels.prefixed("mlp"))
    }

    fn outline(&self) -> Option<BlockOutline> {
        Some(BlockOutline::new(self.self_attn.plain_heads()?, self.mlp.activation()?, &self.input_layernorm))
    }
}
