//! Transcripts: conversations as text, with the parts that the assistant wrote.

use std::iter;
use std::ops::Range;

use serde_json::{Map, Value};

use super::omissions::omitted;
use super::prefixes;
use super::renderer::{Conversation, Rendering};
use super::template::ChatTemplate;
use super::turns::{Prompt, Targets, Turns};
use crate::{Error, Result};

/// A conversation to transcribe.
#[derive(Debug)]
pub(in crate::data) struct Dialogue<'r> {
    /// Messages with roles.
    pub messages: Vec<Value>,
    /// JSON schemas of tools.
    pub tools: Option<&'r Value>,
    /// Options of the template.
    pub options: &'r Map<String, Value>,
    /// What is learned.
    pub targets: Targets,
}

/// A rendered conversation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::data) struct Transcript {
    /// The rendered text.
    pub text: String,
    /// Byte ranges of what is learned, in order.
    pub spans: Vec<Range<usize>>,
    /// Number of turns to learn that the template does not mark as generated.
    pub unmarked_turns: usize,
}

impl Transcript {
    /// Whether a token of the bytes `token` is learned: one that has some of a span. Tokenizers trim whitespace from
    /// offsets.
    pub(in crate::data) fn is_target(&self, token: &Range<usize>) -> bool {
        let next = self.spans.partition_point(|span| span.end <= token.start);
        self.spans.get(next).is_some_and(|span| span.start < token.end && token.start < span.end)
    }
}

/// Renders `dialogues` and finds what is learned of them. Conversations are rendered up to the last turn that is learned.
///
/// # Errors
/// The index of the first that fails and the reason, without the location of the row: no message of the assistant, a
/// template that fails, or a turn that is not found in the text.
pub(in crate::data) fn transcribe(
    template: &ChatTemplate,
    dialogues: &[Dialogue<'_>],
) -> Result<Vec<Transcript>, (usize, Error)> {
    let turns = dialogues
        .iter()
        .enumerate()
        .map(|(index, dialogue)| {
            Turns::new(&dialogue.messages, dialogue.targets).map_err(|error| (index, error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let conversations =
        dialogues.iter().zip(&turns).map(|(dialogue, turns)| dialogue.rendered(turns.renderings()));
    let rendered = template.render_all(conversations.collect())?;
    let mut transcripts = Vec::with_capacity(dialogues.len());
    for (index, ((dialogue, turns), mut ways)) in dialogues.iter().zip(&turns).zip(rendered).enumerate() {
        let prompts = ways.split_off(1);
        let transcript = match ways.pop() {
            None => Err(Error::Dataset("the chat template was not rendered".to_owned())),
            Some(rendering) => {
                rendering.and_then(|rendering| dialogue.find_turns(template, turns, rendering, prompts))
            }
        };
        transcripts.push(transcript.map_err(|error| (index, error))?);
    }
    Ok(transcripts)
}

fn not_found(turn: usize, what: &str) -> Error {
    Error::Dataset(format!(
        "the {what} of message {} (assistant) cannot be found in the text that the chat template renders: use a template \
         that renders it, mark what the assistant generates with {{% generation %}}, or give the message \"weight\": 0",
        turn + 1
    ))
}

impl Dialogue<'_> {
    fn rendered(&self, renderings: Vec<(usize, bool)>) -> Conversation<'_> {
        Conversation { messages: &self.messages, tools: self.tools, variables: self.options, renderings }
    }

    fn find_turns(
        &self,
        template: &ChatTemplate,
        turns: &Turns,
        rendering: Rendering,
        prompts: Vec<Result<Rendering>>,
    ) -> Result<Transcript> {
        if self.targets == Targets::All {
            return Ok(Transcript {
                spans: iter::once(0..rendering.text.len()).collect(),
                text: rendering.text,
                unmarked_turns: 0,
            });
        }
        if turns.is_empty() {
            return Ok(Transcript { text: rendering.text, ..Transcript::default() });
        }
        if let (Targets::Turns(_), Some(generated)) = (self.targets, &rendering.generated) {
            let (spans, unmarked_turns) = turns.marked_spans(&rendering, generated);
            if spans.is_empty() {
                return Err(Error::Dataset(
                    "the chat template marks what the assistant generates with {% generation %}, but marks nothing \
                     of this conversation"
                        .to_owned(),
                ));
            }
            return Ok(Transcript { text: rendering.text, spans, unmarked_turns });
        }
        // Generation prompts of a template that refuses to render some prefixes are not known.
        let prompts: Vec<Prompt> = turns.prompts(&rendering, prompts.into_iter().map(Result::ok));
        let mut spans = Vec::new();
        for turn in turns.learned() {
            let message = &self.messages[turn];
            let mut found = turns.find(turn, message, &rendering, &prompts);
            if found.is_empty() {
                let conversation = self.rendered(prefixes::renderings(turn));
                let ways = template.render_all(vec![conversation]).map_err(|(_, error)| error)?;
                found.extend(prefixes::find_span(
                    &rendering.text,
                    ways.into_iter().flatten(),
                    turn == turns.last(),
                ));
            }
            if let Some(what) = omitted(message, &rendering.text, &found) {
                return Err(not_found(turn, what));
            }
            spans.extend(found);
        }
        if let (Targets::Answer(_), Some(first)) = (self.targets, spans.first()) {
            spans = iter::once(first.start..rendering.text.len()).collect();
        }
        Ok(Transcript { text: rendering.text, spans, unmarked_turns: 0 })
    }
}
