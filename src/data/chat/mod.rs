//! Chat templates.

mod jinja;
mod python_json;
mod template;
pub(super) mod transcript;

pub use template::ChatTemplate;
