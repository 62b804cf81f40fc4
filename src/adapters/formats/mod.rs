//! Adapter files in the formats of mlx-lm and PEFT.

mod convert;
mod experts;
mod files;
mod format;
mod mlx_lm;
mod nulls;
mod peft;
mod peft_config;
mod soft_prompt;
mod stored;
mod uniform_rank;

pub use convert::{ConversionReport, convert};
pub use files::{FILES, check, load, read, write};
pub use format::{CONFIG, Format};
pub use soft_prompt::{PromptKind, SoftPrompt};
pub use stored::StoredAdapter;
