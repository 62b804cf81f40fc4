//! Gated feed-forward layers ([GLU variants](https://arxiv.org/abs/2002.05202)):
//! `down(act(gate(x)) · up(x))`.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;

use super::layer::{FeedForward, Linears, named};
use super::linear::forward_all;
use super::{Linear, Result};
use crate::kernels::activation::{Activation, gated};

/// With the names of Llama.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Mlp {
    /// What the activation is applied to.
    #[param]
    pub gate_proj: Linear,
    /// What is gated.
    #[param]
    pub up_proj: Linear,
    /// Back to `hidden`.
    #[param]
    pub down_proj: Linear,
    /// Of the gate.
    pub activation: Activation,
}

/// SwiGLU with the names of the paper: `w2(silu(w1(x)) · w3(x))`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct NumberedMlp {
    /// The gate.
    #[param]
    pub w1: Linear,
    /// Back to `hidden`.
    #[param]
    pub w2: Linear,
    /// What is gated.
    #[param]
    pub w3: Linear,
}

impl Mlp {
    /// Layers of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(hidden: i32, intermediate: i32, bias: bool, activation: Activation) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::new(hidden, intermediate, bias)?,
            up_proj: Linear::new(hidden, intermediate, bias)?,
            down_proj: Linear::new(intermediate, hidden, bias)?,
            activation,
        })
    }
}

impl NumberedMlp {
    /// Layers of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(hidden: i32, intermediate: i32) -> Result<Self> {
        Ok(Self {
            w1: Linear::new(hidden, intermediate, false)?,
            w2: Linear::new(intermediate, hidden, false)?,
            w3: Linear::new(hidden, intermediate, false)?,
        })
    }
}

impl FeedForward for Mlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = forward_all(x, [&self.gate_proj, &self.up_proj])?;
        self.down_proj.forward(&gated(self.activation, &gate, &up)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { gate_proj, up_proj, down_proj, .. } = self;
        named([("gate_proj", gate_proj), ("up_proj", up_proj), ("down_proj", down_proj)])
    }
}

impl FeedForward for NumberedMlp {
    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = forward_all(x, [&self.w1, &self.w3])?;
        self.w2.forward(&gated(Activation::Silu, &gate, &up)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { w1, w2, w3 } = self;
        named([("w1", w1), ("w2", w2), ("w3", w3)])
    }
}
