//! Chat templates: the Jinja templates of checkpoints, which render a conversation as text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::renderer::{Conversation, Rendered, Renderer, Rendering, Request};
use crate::{Error, Result};

/// Name of the template that renders conversations, unless they have tools and there is one for these.
pub(super) const DEFAULT: &str = "default";

/// Variables that conversations set themselves.
const RESERVED: [&str; 3] = ["messages", "tools", "add_generation_prompt"];

/// The chat template of a checkpoint.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    file: PathBuf,
    sources: BTreeMap<String, String>,
    variables: Map<String, Value>,
    renderer: Arc<dyn Renderer>,
}

impl ChatTemplate {
    /// The templates `sources` by name, read from `file`: `default`, and `tool_use` for conversations with tools. Templates
    /// see `variables`, the special tokens.
    #[must_use]
    pub const fn new(
        file: PathBuf,
        sources: BTreeMap<String, String>,
        variables: Map<String, Value>,
        renderer: Arc<dyn Renderer>,
    ) -> Self {
        Self { file, sources, variables, renderer }
    }

    /// Adds options of the template, such as `enable_thinking`, as variables.
    ///
    /// # Errors
    /// [`Error::Config`] if an option is not one that can be set.
    pub fn add_options(&mut self, options: &Map<String, Value>) -> Result<()> {
        check_options(options).map_err(|reason| Error::Config(format!("chat_template_kwargs {reason}")))?;
        self.variables.extend(options.clone());
        Ok(())
    }

    /// The templates by name: `default`, and others.
    #[must_use]
    pub const fn sources(&self) -> &BTreeMap<String, String> {
        &self.sources
    }

    /// Renders a conversation. `add_generation_prompt` appends the beginning of an assistant message.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if the template is invalid; [`Error::Dataset`] with the reason if it raises an exception
    /// or needs too much time or memory.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let conversation = Conversation {
            messages,
            tools,
            variables: &Map::new(),
            renderings: vec![(messages.len(), add_generation_prompt)],
        };
        let rendered = self.render_all(vec![conversation]).map_err(|(_, error)| error)?;
        let first = rendered.into_iter().flatten().next();
        first
            .unwrap_or_else(|| Err(Error::Dataset("the chat template rendered nothing".to_owned())))
            .map(|it| it.text)
    }

    /// Renders conversations in each of the ways that they ask for.
    ///
    /// # Errors
    /// The index of a conversation that cannot be rendered at all, and why.
    pub(super) fn render_all(
        &self,
        conversations: Vec<Conversation<'_>>,
    ) -> Result<Vec<Vec<Result<Rendering>>>, (usize, Error)> {
        let request = Request { templates: &self.sources, variables: &self.variables, conversations };
        let rendered = self.renderer.render(&request)?;
        let outcome = |rendered| match rendered {
            Rendered::Text(rendering) => Ok(rendering),
            Rendered::Failed { error, reason } if error == "compile" => Err(Error::ModelLoading(format!(
                "{}: the chat template cannot be compiled: {reason}",
                self.file.display()
            ))),
            Rendered::Failed { reason, .. } => {
                Err(Error::Dataset(format!("the chat template cannot render this conversation: {reason}")))
            }
        };
        Ok(rendered.into_iter().map(|ways| ways.into_iter().map(outcome).collect()).collect())
    }
}

/// Checks the names of template options.
///
/// # Errors
/// The reason.
pub(in crate::data) fn check_options(options: &Map<String, Value>) -> Result<(), String> {
    match options.keys().find(|name| RESERVED.contains(&name.as_str())) {
        Some(name) => Err(format!("cannot set \"{name}\", which is given by the conversation")),
        None => Ok(()),
    }
}
