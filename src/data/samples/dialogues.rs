//! Rows that are rendered with the chat template.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::sample::Sample;
use crate::data::ChatTemplate;
use crate::data::chat::{Dialogue, Targets, Transcript, transcribe};
use crate::data::rows::{Answer, Chat, Pair, Prompt, Row};
use crate::data::text::Tokenizer;
use crate::{Error, Result};

/// Returns the conversations of `row`, one per sample; none if it is tokenized as plain text.
pub(super) fn dialogues(row: &Row, mask_prompt: bool) -> Vec<Dialogue<'_>> {
    let targets = |prompt_len| if mask_prompt { Targets::Turns(prompt_len) } else { Targets::All };
    let plain = |messages| Dialogue { messages, tools: None, options: no_options(), targets: targets(0) };
    match row {
        Row::Text(_) | Row::Tokens(_) => Vec::new(),
        Row::Completion { prompt, completion } => vec![plain(vec![
            json!({"role": "user", "content": prompt}),
            json!({"role": "assistant", "content": completion}),
        ])],
        Row::Instruction(row) => vec![plain(row.messages())],
        Row::Chat(chat) => vec![dialogue(chat, chat.messages.clone(), targets(chat.prompt_len))],
        Row::Pair(Pair { prompt: Prompt::Prefix(_), answers: [Answer::Text(_), Answer::Text(_)] }) => {
            Vec::new()
        }
        Row::Pair(Pair { prompt, answers }) => {
            answers.iter().map(|answer| answered(prompt, answer)).collect()
        }
    }
}

fn answered<'r>(prompt: &'r Prompt, answer: &Answer) -> Dialogue<'r> {
    let messages = prompt.messages();
    let targets = Targets::Answer(messages.len());
    let messages = [messages, answer.messages()].concat();
    match prompt {
        Prompt::Chat(chat) => dialogue(chat, messages, targets),
        _ => Dialogue { messages, tools: None, options: no_options(), targets },
    }
}

fn dialogue(chat: &Chat, messages: Vec<Value>, targets: Targets) -> Dialogue<'_> {
    Dialogue { messages, tools: chat.tools.as_ref(), options: &chat.options, targets }
}

fn no_options() -> &'static Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    &NONE
}

impl Tokenizer {
    /// Encodes conversations as samples.
    ///
    /// # Errors
    /// The index of the first conversation that cannot be encoded, and why.
    pub(super) fn encode_dialogues(
        &self,
        template: &ChatTemplate,
        dialogues: &[Dialogue<'_>],
    ) -> Result<Vec<Sample>, (usize, Error)> {
        let transcripts = transcribe(template, dialogues)?;
        let encode = |(index, transcript): (usize, &Transcript)| {
            self.encode_transcript(transcript).map_err(|error| (index, error))
        };
        transcripts.iter().enumerate().map(encode).collect()
    }

    fn encode_transcript(&self, transcript: &Transcript) -> Result<Sample> {
        let (ids, offsets): (_, Vec<Range<usize>>) = self.encode_with_offsets(&transcript.text)?;
        let mut sample = Sample::new(ids, |index| transcript.is_target(&offsets[index]));
        sample.unmarked_turns = transcript.unmarked_turns;
        Ok(sample)
    }
}
