//! Language models, one file per architecture. [`load`] and [`create`] select it by `model_type`.

mod block;
mod causal_lm;
mod checkpoint_layout;
mod configuration;
mod experts;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt_oss;
mod gpt_oss_layout;
mod init;
mod language_model;
mod lfm2;
mod lfm2_moe;
mod llama;
mod loading;
mod mistral;
mod mixtral;
mod narrow;
mod outline;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod recompute;
mod shrink;
mod smollm3;
mod stored_sizes;

pub use init::initialize;
pub use language_model::{LanguageModel, Model};
pub(crate) use loading::is_router;
pub use loading::{check_tokens, convert, create, explicit_config, load};
pub use narrow::{check_heads, hidden_multiple, set_channels, set_heads, set_hidden};
pub use outline::{BlockOutline, Outline};
pub use shrink::{keep_blocks, needs_consecutive};

#[cfg(test)]
mod tests;
