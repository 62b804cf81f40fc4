//! The interface between chat templates and what renders them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Error;

/// Renders conversations with Jinja templates.
pub trait Renderer: Debug + Send + Sync {
    /// Renders all conversations of `request`, in each of the ways they ask for.
    ///
    /// # Errors
    /// The index of a conversation that no answer came for, and why. Templates that fail are no error here.
    fn render(&self, request: &Request<'_>) -> Result<Vec<Vec<Rendered>>, (usize, Error)>;
}

/// Conversations to render with one template.
#[derive(Debug, Serialize)]
pub struct Request<'r> {
    /// Sources of the templates by name.
    pub templates: &'r BTreeMap<String, String>,
    /// Variables of the template: the special tokens and options.
    pub variables: &'r Map<String, Value>,
    /// The conversations.
    pub conversations: Vec<Conversation<'r>>,
}

/// A conversation and the ways to render it.
#[derive(Debug, Serialize)]
pub struct Conversation<'r> {
    /// Messages with roles.
    pub messages: &'r [Value],
    /// JSON schemas of tools.
    pub tools: Option<&'r Value>,
    /// More variables, which take precedence over those of the request.
    pub variables: &'r Map<String, Value>,
    /// Number of messages to render, and whether a generation prompt follows.
    pub renderings: Vec<(usize, bool)>,
}

/// What became of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rendered {
    /// The template rendered it.
    Text(Rendering),
    /// The template failed.
    Failed {
        /// `compile` or `render`.
        error: String,
        /// The message of the error.
        reason: String,
    },
}

/// A rendered conversation. Positions are bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendering {
    /// The text.
    pub text: String,
    /// Index of a message and its part of the text, in the order of the text.
    pub messages: Vec<(usize, usize, usize)>,
    /// Start and end of the `{% generation %}` blocks; `None` if the template has none.
    pub generated: Option<Vec<(usize, usize)>>,
}

impl Rendering {
    /// The parts of the text that come from each message, by its index.
    pub(super) fn parts(&self) -> BTreeMap<usize, Vec<Range<usize>>> {
        let mut parts: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
        for &(message, start, end) in &self.messages {
            parts.entry(message).or_default().push(start..end);
        }
        parts
    }

    /// Whether all positions lie within the text, on the boundaries of characters.
    pub(super) fn is_valid(&self) -> bool {
        let is_range = |start, end| self.text.get(start..end).is_some();
        self.messages.iter().all(|&(_, start, end)| is_range(start, end))
            && self.generated.iter().flatten().all(|&(start, end)| is_range(start, end))
    }
}
