//! Transformer blocks with norms before attention and feed-forward layers.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::config::TowerConfig;
use crate::kernels::activation::{Activation, activate};
use crate::kernels::attention::{KeyValues, Mask, Scoring, attention};
use crate::models::recompute::recompute;
use crate::nn::layer::{Linears, named, prefixed};
use crate::nn::linear::forward_all;
use crate::nn::network::GradientCheckpointing;
use crate::nn::{LayerNorm, Linear, Result};

/// Multi-head attention.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct Attention {
    #[param]
    q_proj: Linear,
    #[param]
    k_proj: Linear,
    #[param]
    v_proj: Linear,
    #[param]
    out_proj: Linear,
    heads: i32,
    mask: Mask,
}

/// `fc2(act(fc1(x)))`.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct Mlp {
    #[param]
    fc1: Linear,
    #[param]
    fc2: Linear,
    activation: Activation,
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct EncoderLayer {
    #[param]
    self_attn: Attention,
    #[param]
    layer_norm1: LayerNorm,
    #[param]
    mlp: Mlp,
    #[param]
    layer_norm2: LayerNorm,
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct Encoder {
    #[param]
    pub(super) layers: Vec<EncoderLayer>,
}

impl Attention {
    pub(super) fn new(hidden: i32, heads: i32, mask: Mask) -> Result<Self> {
        let square = || Linear::new(hidden, hidden, true);
        Ok(Self { q_proj: square()?, k_proj: square()?, v_proj: square()?, out_proj: square()?, heads, mask })
    }

    /// `x`: `[batch, time, hidden]` → same shape.
    fn forward(&self, x: &Array) -> Result<Array> {
        let [q, k, v] = forward_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        self.attend(&q, &k, &v)
    }

    /// `queries`: `[batch, time, hidden]`, which attend to `x`: `[batch, length, hidden]` → the shape of `queries`.
    pub(super) fn forward_across(&self, queries: &Array, x: &Array) -> Result<Array> {
        let [k, v] = forward_all(x, [&self.k_proj, &self.v_proj])?;
        self.attend(&self.q_proj.forward(queries)?, &k, &v)
    }

    fn attend(&self, q: &Array, k: &Array, v: &Array) -> Result<Array> {
        let heads = |x: &Array| x.reshape(&[x.dim(0), x.dim(1), self.heads, -1]);
        let (q, k, v) = (heads(q)?, heads(k)?, heads(v)?);
        let scale = (q.dim(3) as f32).sqrt().recip();
        let y = attention(&q, KeyValues::all(&k, &v), Scoring::plain(scale, self.mask), None)?;
        self.out_proj.forward(&y.reshape(&[q.dim(0), q.dim(1), -1])?)
    }

    pub(super) fn linears(&mut self) -> Linears<'_> {
        let Self { q_proj, k_proj, v_proj, out_proj, .. } = self;
        named([("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj), ("out_proj", out_proj)])
    }
}

impl Mlp {
    pub(super) fn new(config: &TowerConfig) -> Result<Self> {
        let &TowerConfig { hidden, intermediate, activation, .. } = config;
        Ok(Self {
            fc1: Linear::new(hidden, intermediate, true)?,
            fc2: Linear::new(intermediate, hidden, true)?,
            activation,
        })
    }

    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        self.fc2.forward(&activate(self.activation, &self.fc1.forward(x)?)?)
    }

    pub(super) fn linears(&mut self) -> Linears<'_> {
        named([("fc1", &mut self.fc1), ("fc2", &mut self.fc2)])
    }
}

impl EncoderLayer {
    fn new(config: &TowerConfig, mask: Mask) -> Result<Self> {
        Ok(Self {
            self_attn: Attention::new(config.hidden, config.heads, mask)?,
            layer_norm1: LayerNorm::new(config.hidden, config.norm_eps)?,
            mlp: Mlp::new(config)?,
            layer_norm2: LayerNorm::new(config.hidden, config.norm_eps)?,
        })
    }

    /// `x`: `[batch, time, hidden]` → same shape.
    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        let x = x.add(self.self_attn.forward(&self.layer_norm1.forward(x)?)?)?;
        x.add(self.mlp.forward(&self.layer_norm2.forward(&x)?)?)
    }
}

impl Encoder {
    pub(super) fn new(config: &TowerConfig, mask: Mask) -> Result<Self> {
        let layers: Result<Vec<_>> = (0..config.layers).map(|_| EncoderLayer::new(config, mask)).collect();
        Ok(Self { layers: layers? })
    }

    /// `x`: `[batch, time, hidden]` → same shape. `path` is the key path of this encoder.
    pub(super) fn forward(
        &self,
        x: &Array,
        path: &str,
        checkpointing: Option<&GradientCheckpointing>,
    ) -> Result<Array> {
        let apply = |layers: &[EncoderLayer], x: &Array| {
            layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x))
        };
        let Some(checkpointing) = checkpointing else { return apply(&self.layers, x) };
        let every = checkpointing.every.max(1);
        let mut x = x.clone();
        for (i, layers) in self.layers.chunks(every).enumerate() {
            let paths = (0..layers.len()).map(|j| format!("{path}.layers.{}.", i * every + j)).collect();
            let outputs =
                recompute(vec![x], layers, paths, &checkpointing.trained, move |layers, inputs| {
                    Ok(vec![apply(layers, &inputs[0])?])
                })?;
            x = outputs.into_iter().next().ok_or_else(|| Exception::custom("a checkpoint without output"))?;
        }
        Ok(x)
    }

    /// All linear layers, in order.
    pub(super) fn linears(&mut self) -> Linears<'_> {
        let layers = self.layers.iter_mut().enumerate();
        layers
            .flat_map(|(i, layer)| {
                let EncoderLayer { self_attn, mlp, .. } = layer;
                let attention = prefixed(&format!("layers.{i}.self_attn"), self_attn.linears());
                attention.into_iter().chain(prefixed(&format!("layers.{i}.mlp"), mlp.linears()))
            })
            .collect()
    }
}
