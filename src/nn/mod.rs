//! Neural network layers: plain structs with an inherent `forward`. Their field names are the keys of a
//! checkpoint.

pub mod attention;
pub mod cache;
pub mod cache_layout;
pub mod computed_weights;
pub mod context;
pub mod either;
pub mod embedding;
pub mod fake_quantization;
pub mod fingerprint;
pub mod head;
pub mod heads;
pub mod layer;
pub mod linear;
pub mod mlp;
pub mod moe;
pub mod network;
pub mod norm;
pub mod overrides;
pub mod prompt;
pub mod quantized;
mod quantized_cache;
pub mod residual;
pub mod rope;
pub mod rope_scaling;
pub mod row_adapters;
pub mod scaling;
pub mod sequences;
pub mod short_conv;
pub mod tap;
pub mod units;

pub use attention::Attention;
pub use cache::{Cache, ConvState, KvCache, LayerCache};
pub use cache_layout::CacheLayout;
pub use context::{Context, Segments};
pub use embedding::Embedding;
pub use head::Head;
pub use heads::Heads;
pub use linear::{Linear, LowRank};
pub use mlp::{Mlp, NumberedMlp};
pub use network::Network;
pub use norm::RmsNorm;
pub use overrides::Overrides;
pub use prompt::Prompt;
pub use residual::Residual;
pub use rope::Rope;
pub use rope_scaling::RopeScaling;
pub use row_adapters::{RowAdapter, RowAdapters};
pub use sequences::Sequences;
pub use short_conv::ShortConv;

/// Result of the `forward` of every layer.
pub type Result<T> = std::result::Result<T, mlx_rs::error::Exception>;
