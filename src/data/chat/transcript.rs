//! Transcripts: conversations as text, with the parts that the assistant wrote.

use std::iter;
use std::ops::Range;

use serde_json::{Map, Value};

use super::omissions::omitted;
use super::prefixes;
use super::renderer::{Conversation, Rendering};
use super::template::ChatTemplate;
use super::turns::{Targets, Turns};
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
    for (index, ((dialogue, turns), ways)) in dialogues.iter().zip(&turns).zip(rendered).enumerate() {
        let mut ways = ways.into_iter();
        let whole = ways.next().unwrap_or_else(|| Err(not_rendered()));
        let transcript = whole.and_then(|whole| dialogue.find_turns(template, turns, whole, ways));
        transcripts.push(transcript.map_err(|error| (index, error))?);
    }
    Ok(transcripts)
}

fn not_rendered() -> Error {
    Error::Dataset("the chat template was not rendered".to_owned())
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
        prefixes: impl Iterator<Item = Result<Rendering>>,
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
        let mut found = turns.find(&self.messages, &rendering, prefixes.map(Result::ok));
        let missing: Vec<usize> =
            found.iter().filter(|(_, spans)| spans.is_empty()).map(|(turn, _)| *turn).collect();
        if !missing.is_empty() {
            let asked = missing.iter().flat_map(|&turn| prefixes::renderings(turn)).collect();
            let ways = template.render_all(vec![self.rendered(asked)]).map_err(|(_, error)| error)?;
            let mut ways = ways.into_iter().flatten();
            for (turn, spans) in found.iter_mut().filter(|(_, spans)| spans.is_empty()) {
                spans.extend(prefixes::find_span(&rendering.text, &mut ways, *turn == turns.last()));
            }
        }
        for (turn, spans) in &found {
            if let Some(what) = omitted(&self.messages[*turn], &rendering.text, spans) {
                return Err(not_found(*turn, what));
            }
        }
        let mut spans: Vec<Range<usize>> = found.into_iter().flat_map(|(_, spans)| spans).collect();
        if let (Targets::Answer(_), Some(first)) = (self.targets, spans.first()) {
            spans = iter::once(first.start..rendering.text.len()).collect();
        }
        Ok(Transcript { text: rendering.text, spans, unmarked_turns: 0 })
    }
}
