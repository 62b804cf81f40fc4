//! What the parts of a block have in common, so that blocks can be put together from them.

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters;

use super::{Context, Linear, Result};

/// Linear layers with their key paths below the part that holds them.
pub type Linears<'a> = Vec<(String, &'a mut Linear)>;

/// Mixes positions: attention, or what stands in its place.
pub trait Mixer: ModuleParameters + Send + 'static {
    /// `x`: `[batch, time, hidden]` → same shape. With a cache, `x` continues what it holds.
    ///
    /// # Errors
    /// Shapes that do not fit; a cache of another kind.
    fn forward(&self, x: &Array, context: Context) -> Result<Array>;

    /// Every linear layer, in order.
    fn linears(&mut self) -> Linears<'_>;
}

/// Transforms each position for itself.
pub trait FeedForward: ModuleParameters + Clone + Send + 'static {
    /// Whether the host looks at numbers on the way.
    const DATA_DEPENDENT: bool = false;

    /// `x`: `[..., hidden]` → same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn forward(&self, x: &Array) -> Result<Array>;

    /// Every linear layer, in order.
    fn linears(&mut self) -> Linears<'_>;
}

/// `layers` by their field names.
pub fn named<'a, const N: usize>(layers: [(&str, &'a mut Linear); N]) -> Linears<'a> {
    layers.into_iter().map(|(name, layer)| (name.to_owned(), layer)).collect()
}

/// The layers of a part that stands prefixed `path`.
#[must_use]
pub fn prefixed<'a>(path: &str, layers: Linears<'a>) -> Linears<'a> {
    layers.into_iter().map(|(name, layer)| (format!("{path}.{name}"), layer)).collect()
}
