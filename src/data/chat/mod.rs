//! Chat templates, and which part of a rendered conversation is the assistant's.
//!
//! Templates are Jinja, in the dialect of the library `jinja2`, and code from a checkpoint. A [`Renderer`] renders them:
//! [`RendererProcess`] in processes of their own that run the library.

mod omissions;
mod prefixes;
mod process;
mod read;
mod renderer;
mod template;
mod transcript;
mod turns;

#[cfg(test)]
pub(super) mod recorded;
#[cfg(test)]
mod tests;

pub use process::RendererProcess;
pub use renderer::{Conversation, Rendered, Renderer, Rendering, Request};
pub use template::ChatTemplate;
pub(super) use template::check_options;
pub(super) use transcript::{Dialogue, Transcript, transcribe};
pub(super) use turns::Targets;
