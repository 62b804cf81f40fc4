//! Traits of the layers that transformer blocks are composed of.

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;

use super::scaling::Flow;
use super::units::Units;
use super::{Context, Heads, Linear, Result};
use crate::kernels::activation::Activation;

/// Linear layers with their key paths relative to the module that contains them.
pub type Linears<'a> = Vec<(String, &'a mut Linear)>;

/// A layer that mixes positions: attention, or a replacement of it.
pub trait Mixer: ModuleParameters + Send + 'static {
    /// `x`: `[batch, time, hidden]` → same shape. With a cache, `x` continues the cached sequence.
    ///
    /// # Errors
    /// Incompatible shapes, or a cache of the wrong kind.
    fn forward(&self, x: &Array, context: Context) -> Result<Array>;

    /// Returns all linear layers, in order.
    fn linears(&mut self) -> Linears<'_>;

    /// How channels flow through it.
    fn flow(&self) -> Flow;

    /// Hyperparameters of attention; `None` of a replacement.
    fn heads(&self) -> Option<&Heads> {
        None
    }

    /// The groups of heads of attention; `None` of a replacement.
    fn groups(&self) -> Option<Units> {
        None
    }

    /// Those of attention whose only parameters are projections and norms of heads.
    fn plain_heads(&self) -> Option<&Heads> {
        None
    }
}

/// A layer that transforms each position independently.
pub trait FeedForward: ModuleParameters + Clone + Send + 'static {
    /// Whether control flow depends on data, so that a graph cannot be reused.
    const DATA_DEPENDENT: bool = false;

    /// `x`: `[..., hidden]` → same shape.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn forward(&self, x: &Array) -> Result<Array>;

    /// Returns all linear layers, in order.
    fn linears(&mut self) -> Linears<'_>;

    /// How channels flow through it.
    fn flow(&self) -> Flow;

    /// The channels that it can do with fewer of; `None` of experts.
    fn channels(&self) -> Option<Units> {
        None
    }

    /// Activation of the gate of `down(act(gate(x)) · up(x))`; `None` for other layers.
    fn activation(&self) -> Option<Activation> {
        None
    }
}

/// Pairs `layers` with their field names.
pub fn named<'a, const N: usize>(layers: [(&str, &'a mut Linear); N]) -> Linears<'a> {
    layers.into_iter().map(|(name, layer)| (name.to_owned(), layer)).collect()
}

/// Prepends `path` to the key paths of `layers`.
#[must_use]
pub fn prefixed<'a>(path: &str, layers: Linears<'a>) -> Linears<'a> {
    layers.into_iter().map(|(name, layer)| (format!("{path}.{name}"), layer)).collect()
}
