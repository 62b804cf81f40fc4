//! What a decoder computes besides its parameters, as numbers: for writers of other runtimes' formats.

use serde::Serialize;

use crate::kernels::activation::Activation;
use crate::kernels::attention::Mask;
use crate::nn::rope::Angles;
use crate::nn::{Heads, RmsNorm};

/// A decoder of attention and gated feed-forward layers.
#[derive(Debug, Clone, Serialize)]
pub struct Outline {
    /// Factor of embeddings.
    pub embedding_scale: Option<f32>,
    /// `c` of the final softcap `c · tanh(logits / c)`.
    pub softcap: Option<f32>,
    /// Each block, in order.
    pub blocks: Vec<BlockOutline>,
}

/// One block. All its norms are alike, those of heads included.
#[derive(Debug, Clone, Serialize)]
pub struct BlockOutline {
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    /// Factor of attention scores.
    scale: f32,
    /// `c` of the softcap of attention scores.
    softcap: Option<f32>,
    /// Number of positions that a query attends to, its own included; `None` for all.
    window: Option<i32>,
    /// Rotation of queries and keys.
    rope: Option<Angles>,
    /// `silu`, `gelu`, `gelu_tanh` or `quick_gelu`.
    activation: &'static str,
    norm_eps: f32,
    /// Added to the weights of norms.
    norm_offset: f32,
}

impl BlockOutline {
    /// Describes a block by its parts.
    pub(super) fn new(heads: &Heads, activation: Activation, norm: &RmsNorm) -> Self {
        let window = match heads.mask {
            Mask::Causal | Mask::Full => None,
            Mask::Sliding(window) => Some(window),
        };
        Self {
            heads: heads.heads,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            scale: heads.scale,
            softcap: heads.softcap,
            window,
            rope: heads.rope.as_ref().map(|rope| rope.angles().clone()),
            activation: match activation {
                Activation::Silu => "silu",
                Activation::Gelu => "gelu",
                Activation::GeluTanh => "gelu_tanh",
                Activation::QuickGelu => "quick_gelu",
            },
            norm_eps: norm.rms.eps,
            norm_offset: norm.rms.offset,
        }
    }
}
