//! Self-attention with grouped queries ([GQA](https://arxiv.org/abs/2305.13245)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;

use super::heads::{AttentionExtras, Heads};
use super::layer::{Linears, Mixer, named};
use super::linear::forward_all;
use super::scaling::{Flow, Scaling};
use super::units::Units;
use super::{Context, Linear, Result, RmsNorm};

/// Attention with Llama's parameter names, and optional parameters of later architectures.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Attention {
    /// Query projection.
    #[param]
    pub q_proj: Linear,
    /// Key projection.
    #[param]
    pub k_proj: Linear,
    /// Value projection.
    #[param]
    pub v_proj: Linear,
    /// Output projection.
    #[param]
    pub o_proj: Linear,
    /// Norm of each query head.
    #[param]
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head.
    #[param]
    pub k_norm: Option<RmsNorm>,
    /// Attention sinks, one score per head: `[heads]`.
    #[param]
    pub sinks: Param<Option<Array>>,
    /// Hyperparameters.
    pub heads: Heads,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Output projection.
    pub output: bool,
}

impl Attention {
    /// Creates zero-initialized projections, without head norms and sinks.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, heads: Heads, biases: Biases) -> Result<Self> {
        let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        Ok(Self {
            q_proj: Linear::new(hidden, q, biases.qkv)?,
            k_proj: Linear::new(hidden, kv, biases.qkv)?,
            v_proj: Linear::new(hidden, kv, biases.qkv)?,
            o_proj: Linear::new(q, hidden, biases.output)?,
            q_norm: None,
            k_norm: None,
            sinks: Param::new(None),
            heads,
        })
    }

    /// Adds a norm of each query and key head, applied before the rotary embedding.
    #[must_use]
    pub fn with_norms(mut self, norm: &RmsNorm) -> Self {
        (self.q_norm, self.k_norm) = (Some(norm.clone()), Some(norm.clone()));
        self
    }
}

impl Mixer for Attention {
    fn forward(&self, x: &Array, context: Context) -> Result<Array> {
        let qkv = forward_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let extras = AttentionExtras {
            norms: self.q_norm.as_ref().zip(self.k_norm.as_ref()),
            sinks: (*self.sinks).as_ref(),
        };
        self.o_proj.forward(&self.heads.forward(qkv, extras, context)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { q_proj, k_proj, v_proj, o_proj, .. } = self;
        named([("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj), ("o_proj", o_proj)])
    }

    fn flow(&self) -> Flow {
        Flow {
            readers: ["q_proj", "k_proj", "v_proj"].map(str::to_owned).to_vec(),
            scalings: vec![Scaling::between("v_proj", self.heads.value_rows(0), "o_proj")],
        }
    }

    fn heads(&self) -> Option<&Heads> {
        Some(&self.heads)
    }

    fn groups(&self) -> Option<Units> {
        let layers = [("q_proj", 0), ("k_proj", 0), ("v_proj", 0)];
        let mut groups = self.heads.groups(layers, "o_proj");
        if self.sinks.is_some() {
            groups.vectors.push(("sinks".to_owned(), (self.heads.heads / self.heads.kv_heads) as usize));
        }
        Some(groups)
    }

    fn plain_heads(&self) -> Option<&Heads> {
        self.sinks.is_none().then_some(&self.heads)
    }
}
