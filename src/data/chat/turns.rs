//! The turns of the assistant in a rendered conversation.
//!
//! The renderer tells which part of the text comes from which message. A turn is what follows the generation prompt in
//! the part of its message:
//!
//! ```text
//! text    <user>Hi<end>\n<assistant>Hello<end>\n<user>Bye<end>\n<assistant>Ciao<end>\n
//! parts   └─────0──────┘└────────1──────────┘└──────2──────┘└────────3─────────┘
//! prompt                 └────────┘
//! turn                              └───────┘
//! ```
//! The end-of-turn token belongs to the turn, for the model has to learn to stop; whitespace that follows it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use super::renderer::Rendering;
use crate::{Error, Result};

/// Maximum number of contexts whose generation prompts are rendered; templates know some five roles.
const MAX_CONTEXTS: usize = 16;

/// What is learned of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Targets {
    /// The whole text.
    All,
    /// The assistant's messages from this index on, except those with `"weight": 0`.
    Turns(usize),
    /// Everything from this message on, which is an answer of the assistant.
    Answer(usize),
}

/// Which messages are learned, and what has to be rendered to find them.
pub(super) struct Turns {
    /// Indices of the messages.
    learned: Vec<usize>,
    /// Number of messages to render.
    count: usize,
    /// For each kind of context, the first turn in it.
    contexts: Vec<(Context, usize)>,
    /// The context of each of `learned`, as an index into `contexts`.
    context_of: Vec<usize>,
}

/// What the generation prompt of a turn depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Context {
    Start,
    After { role: Value, calls_tools: bool },
}

type Parts = BTreeMap<usize, Vec<Range<usize>>>;

impl Turns {
    /// Chooses the turns of `messages`.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there is none.
    pub(super) fn new(messages: &[Value], targets: Targets) -> Result<Self> {
        let is_assistant = |&index: &usize| messages[index]["role"] == "assistant";
        let (learned, count) = match targets {
            Targets::All => (Vec::new(), messages.len()),
            Targets::Answer(first) => (vec![first], messages.len()),
            Targets::Turns(first) => {
                let turns: Vec<usize> = (first..messages.len()).filter(is_assistant).collect();
                let is_learned = |&index: &usize| messages[index]["weight"].as_f64() != Some(0.0);
                let learned: Vec<usize> = turns.iter().copied().filter(is_learned).collect();
                // Without any, the row is rendered like others, and has nothing to learn.
                let last = learned.last().or(turns.last()).ok_or_else(|| {
                    Error::Dataset(
                        "no message has the role \"assistant\", so with masked prompts nothing is left to learn"
                            .to_owned(),
                    )
                })?;
                (learned.clone(), last + 1)
            }
        };
        let mut contexts: Vec<(Context, usize)> = Vec::new();
        let mut context_of = Vec::new();
        for &turn in &learned {
            let context = Context::of(messages, turn);
            let known = contexts.iter().position(|(known, _)| *known == context);
            let index = known.unwrap_or(contexts.len() % MAX_CONTEXTS);
            context_of.push(index);
            if index == contexts.len() {
                contexts.push((context, turn));
            }
        }
        Ok(Self { learned, count, contexts, context_of })
    }

    /// Whether nothing is learned, since all weights are 0.
    pub(super) const fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }

    /// Index of the last rendered message.
    pub(super) const fn last(&self) -> usize {
        self.count.saturating_sub(1)
    }

    /// The whole conversation, and what comes before the first turn of each context, with a generation prompt.
    pub(super) fn renderings(&self) -> Vec<(usize, bool)> {
        let prompts = self.contexts.iter().map(|&(_, turn)| (turn, true));
        std::iter::once((self.count, false)).chain(prompts).collect()
    }

    /// The `{% generation %}` blocks of turns that are learned, and the number of turns without any.
    pub(super) fn marked_spans(
        &self,
        whole: &Rendering,
        generated: &[(usize, usize)],
    ) -> (Vec<Range<usize>>, usize) {
        let message_of = |start: usize| {
            let next = whole.messages.partition_point(|&(_, _, end)| end <= start);
            whole.messages.get(next).filter(|&&(_, from, _)| from <= start).map(|&(index, ..)| index)
        };
        let is_learned = |message| self.learned.binary_search(&message).is_ok();
        let blocks = generated.iter().map(|&(start, end)| (message_of(start), start..end));
        let blocks: Vec<_> = blocks.filter(|(message, _)| message.is_none_or(is_learned)).collect();
        // A block outside of all messages may be of any turn.
        let is_known = blocks.iter().all(|(message, _)| message.is_some());
        let marked: BTreeSet<usize> = blocks.iter().filter_map(|(message, _)| *message).collect();
        let unmarked = if is_known { self.learned.len() - marked.len() } else { 0 };
        (blocks.into_iter().map(|(_, block)| block).collect(), unmarked)
    }

    /// The spans of each message that is learned, none where the renderer does not tell its part of the text `whole`.
    /// `prefixes` are the other [`renderings`](Self::renderings), which end with generation prompts.
    pub(super) fn find(
        &self,
        messages: &[Value],
        whole: &Rendering,
        prefixes: impl Iterator<Item = Option<Rendering>>,
    ) -> Vec<(usize, Vec<Range<usize>>)> {
        let mut parts = whole.parts();
        let prompts = self.generation_prompts(whole, &parts, prefixes);
        let turns = self.learned.iter().zip(&self.context_of);
        let found = turns.map(|(&turn, &context)| {
            let spans = parts.remove(&turn).unwrap_or_default();
            let own = prompts.get(context).and_then(Option::as_deref);
            (turn, self.trim(turn, spans, &messages[turn], &whole.text, own, &prompts))
        });
        found.collect()
    }

    /// The generation prompt of each context; `None` if it is not known.
    fn generation_prompts(
        &self,
        whole: &Rendering,
        parts: &Parts,
        prefixes: impl Iterator<Item = Option<Rendering>>,
    ) -> Vec<Option<String>> {
        let found = self.contexts.iter().zip(prefixes).map(|((_, turn), prefix)| {
            let prefix = prefix?;
            let start = parts.get(turn)?.first()?.start;
            // What comes before may be rendered differently, so the comparison starts as late as it can.
            let in_prefix = prefix.parts();
            let first = |parts: &Parts, message| Some(parts.get(&message)?.first()?.start);
            let shared =
                (0..*turn).rev().find_map(|message| first(parts, message).zip(first(&in_prefix, message)));
            let (in_whole, in_prefix) = shared.unwrap_or_default();
            if in_whole <= start
                && let Some(prompt) = prefix.text[in_prefix..].strip_prefix(&whole.text[in_whole..start])
            {
                return Some(prompt.to_owned());
            }
            let &(_, _, end) = prefix.messages.last()?;
            Some(prefix.text[end..].to_owned())
        });
        found.collect()
    }

    /// Takes the generation prompt off the parts `spans` of message `turn` in `text`, and whitespace off their end. `own` is
    /// the prompt of its context, of all `prompts`.
    fn trim(
        &self,
        turn: usize,
        mut spans: Vec<Range<usize>>,
        message: &Value,
        text: &str,
        own: Option<&str>,
        prompts: &[Option<String>],
    ) -> Vec<Range<usize>> {
        if let Some(first) = spans.first_mut() {
            let part = &text[first.clone()];
            let others = prompts.iter().flatten().map(String::as_str);
            let fits =
                own.into_iter().chain(others).find(|prompt| !prompt.is_empty() && part.starts_with(prompt));
            first.start += fits.or(own).map_or(0, |prompt| prompt_len(part, prompt, message));
        }
        if let Some(last) = spans.last_mut() {
            // What a template appends to a conversation that ends with an answer, such as EOS, belongs to the answer.
            // Some append a generation prompt, asked or not.
            let is_prompt = prompts.iter().flatten().any(|prompt| *prompt == text[last.end..]);
            let end = if turn == self.last() && !is_prompt { text.len() } else { last.end };
            last.end = last.start + text[last.start..end].trim_end().len();
        }
        spans.retain(|span| !span.is_empty());
        spans
    }
}

impl Context {
    fn of(messages: &[Value], turn: usize) -> Self {
        let Some(before) = turn.checked_sub(1) else { return Self::Start };
        let before = &messages[before];
        Self::After { role: before["role"].clone(), calls_tools: before["tool_calls"].is_array() }
    }
}

/// Number of bytes that the part `text` of a message shares with the generation prompt. A prompt may open more than earlier
/// answers keep, such as `<think>`.
fn prompt_len(text: &str, prompt: &str, message: &Value) -> usize {
    if text.starts_with(prompt) {
        return prompt.len();
    }
    let common =
        text.chars().zip(prompt.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let content = message["content"].as_str().map(str::trim).filter(|content| !content.is_empty());
    let limit = content.and_then(|content| text.rfind(content)).unwrap_or(common).min(common);
    // A word or tag that is shared in part belongs to the answer.
    let is_end = |c: char| c.is_whitespace() || matches!(c, '>' | ']' | ')' | ':');
    if limit < common {
        return limit;
    }
    text[..common].trim_end_matches(|c| !is_end(c)).len()
}
