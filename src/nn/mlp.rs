//! Gated feed-forward layers ([GLU variants](https://arxiv.org/abs/2002.05202)): `down(act(gate(x)) ·
//! up(x))`.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;

use super::layer::{FeedForward, Linears, named};
use super::linear::forward_all;
use super::scaling::{Flow, Scaling};
use super::units::Units;
use super::{Linear, Result};
use crate::kernels::activation::{Activation, gated};

/// Gated feed-forward layer with Llama's parameter names.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Mlp {
    /// Gate projection.
    #[param]
    pub gate_proj: Linear,
    /// Up projection.
    #[param]
    pub up_proj: Linear,
    /// Down projection.
    #[param]
    pub down_proj: Linear,
    /// Activation of the gate.
    pub activation: Activation,
}

/// SwiGLU with the paper's parameter names: `w2(silu(w1(x)) · w3(x))`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct NumberedMlp {
    /// Gate projection.
    #[param]
    pub w1: Linear,
    /// Down projection.
    #[param]
    pub w2: Linear,
    /// Up projection.
    #[param]
    pub w3: Linear,
}

impl Mlp {
    /// Creates zero-initialized projections.
    ///
    /// # Errors
    /// Errors from MLX.
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
    /// Creates zero-initialized projections.
    ///
    /// # Errors
    /// Errors from MLX.
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

    fn flow(&self) -> Flow {
        gated_flow(["gate_proj", "up_proj", "down_proj"], &self.down_proj)
    }

    fn channels(&self) -> Option<Units> {
        let count = self.down_proj.size().0 as usize;
        Some(Units::channels(count, [("gate_proj", 0), ("up_proj", 0)], "down_proj"))
    }

    fn activation(&self) -> Option<Activation> {
        Some(self.activation)
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

    fn flow(&self) -> Flow {
        gated_flow(["w1", "w3", "w2"], &self.w2)
    }

    fn channels(&self) -> Option<Units> {
        Some(Units::channels(self.w2.size().0 as usize, [("w1", 0), ("w3", 0)], "w2"))
    }
}

/// The output is linear in that of `up`.
fn gated_flow([gate, up, down]: [&str; 3], down_proj: &Linear) -> Flow {
    let rows = (0..down_proj.size().0 as usize).collect();
    Flow { readers: vec![gate.into(), up.into()], scalings: vec![Scaling::between(up, rows, down)] }
}
