//! Assistant spans: which bytes of a rendered conversation the assistant wrote.
//!
//! Templates do not mark them. Therefore the conversation is also rendered up to each assistant turn; the common
//! prefix of that rendering and the whole is the prompt of the turn:
//!
//! ```text
//! whole   <user>Hi<end><assistant>Hello<end><user>Bye<end><assistant>Ciao<end>
//! prompt  <user>Hi<end><assistant>
//! turn                            └────────┘
//! ```
//! The end-of-turn token belongs to the turn: the model has to learn to stop.

use std::ops::Range;

use serde_json::Value;

use super::template::{ChatTemplate, Conversation};
use crate::{Error, Result};

/// Maximum number of messages: each turn is rendered about three times, which takes quadratic time.
const MAX_MESSAGES: usize = 1024;

/// A rendered conversation.
#[derive(Debug, PartialEq)]
pub(in crate::data) struct Transcript {
    /// The rendered text.
    pub text: String,
    /// Byte ranges of the assistant turns, in order.
    pub assistant_spans: Vec<Range<usize>>,
}

impl Transcript {
    /// Whether the token that ends at byte `end` belongs to the assistant. A token across the start of a span does:
    /// tokenizers may trim leading whitespace from offsets, never trailing.
    pub(in crate::data) fn is_assistant_token(&self, end: usize) -> bool {
        let next = self.assistant_spans.partition_point(|answer| answer.end < end);
        self.assistant_spans.get(next).is_some_and(|answer| answer.start < end)
    }
}

/// Renders `messages` up to the last assistant turn and finds all assistant turns. If the template renders earlier
/// turns differently as the conversation continues, as some do to hide reasoning, only the last turn is returned.
///
/// # Errors
/// [`Error::Dataset`] without the location of the row, if there is no assistant turn, if the template fails, or if
/// even the last turn cannot be separated from its prompt.
pub(in crate::data) fn render_transcript(
    template: &ChatTemplate,
    messages: &[Value],
    tools: Option<&Value>,
) -> Result<Transcript> {
    let is_assistant = |message: &Value| message["role"] == "assistant";
    let Some(last) = messages.iter().rposition(is_assistant) else {
        return Err(Error::Dataset(
            "no message has the role \"assistant\", so with masked prompts nothing is left to learn"
                .to_owned(),
        ));
    };
    if last >= MAX_MESSAGES {
        return Err(Error::Dataset(format!(
            "the conversation has {} messages; at most {MAX_MESSAGES} are supported",
            messages.len()
        )));
    }
    let conversation = template.prepare(&messages[..=last], tools)?;
    let text = conversation.render(last + 1, false)?;

    let find = |turn: usize| find_span(&conversation, &text, turn, turn == last);
    let turns = (0..=last).filter(|&turn| is_assistant(&messages[turn]));
    let all_spans: Option<Vec<_>> = turns.map(find).collect();
    let assistant_spans = match all_spans {
        Some(assistant_spans) => assistant_spans,
        None => vec![find(last).ok_or_else(|| {
            Error::Dataset(
                "the chat template renders what comes before the last answer differently once the answer \
                 is there, so prompt and answer cannot be told apart; train with mask_prompt = false"
                    .to_owned(),
            )
        })?],
    };
    Ok(Transcript { text, assistant_spans })
}

/// Renders `prompt` and `answer` and finds the span of the whole answer.
///
/// # Errors
/// [`Error::Dataset`] without the location of the row, if the template fails or the answer cannot be separated from
/// its prompt.
pub(in crate::data) fn render_answer(
    template: &ChatTemplate,
    prompt: &[Value],
    answer: &[Value],
    tools: Option<&Value>,
) -> Result<Transcript> {
    let conversation = template.prepare(&[prompt, answer].concat(), tools)?;
    let text = conversation.render(prompt.len() + answer.len(), false)?;
    let answer = find_span(&conversation, &text, prompt.len(), true).ok_or_else(|| {
        Error::Dataset(
            "the chat template renders the prompt differently once an answer is there, so prompt and answer cannot \
             be told apart"
                .to_owned(),
        )
    })?;
    Ok(Transcript { text, assistant_spans: vec![answer] })
}

/// The byte range of message `turn` in `text`, or `None` if the template does not render it in place.
fn find_span(
    conversation: &Conversation<'_>,
    text: &str,
    turn: usize,
    is_last: bool,
) -> Option<Range<usize>> {
    let history = conversation.render(turn, false).ok()?;
    let prompt = conversation.render(turn, true).ok()?;
    // The generation prompt of some templates is longer than what the answer keeps, "<think>" for example.
    let start = common_prefix(&prompt, text);
    if !text.starts_with(&history) || start < history.len() {
        return None;
    }
    if is_last {
        return Some(start..text.len());
    }
    let through = conversation.render(turn + 1, false).ok()?;
    (text.starts_with(&through) && start <= through.len()).then_some(start..through.len())
}

/// Length in bytes of the longest common prefix of whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(role: &str, content: &str) -> Value {
        json!({"role": role, "content": content})
    }

    fn chat() -> Vec<Value> {
        vec![said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye"), said("assistant", "Ciao")]
    }

    fn assistant_spans(source: &str, messages: &[Value]) -> Result<Vec<String>> {
        let template = ChatTemplate::new(source, None, None).unwrap();
        let transcript = render_transcript(&template, messages, None)?;
        Ok(transcript.assistant_spans.into_iter().map(|answer| transcript.text[answer].to_owned()).collect())
    }

    const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}\
                         {% if add_generation_prompt %}<assistant>{% endif %}";

    #[test]
    fn every_turn_of_the_assistant_with_its_end() {
        assert_eq!(assistant_spans(PLAIN, &chat()).unwrap(), ["Hello<end>", "Ciao<end>"]);
        let one = [said("assistant", "I begin")];
        assert_eq!(assistant_spans(PLAIN, &one).unwrap(), ["I begin<end>"]);
    }

    #[test]
    fn what_follows_the_last_answer_is_left_out() {
        let template = ChatTemplate::new(PLAIN, None, None).unwrap();
        let transcript = render_transcript(&template, &chat()[..3], None).unwrap();
        assert_eq!(transcript.text, "<user>Hi<end><assistant>Hello<end>");
        assert_eq!(&transcript.text[transcript.assistant_spans[0].clone()], "Hello<end>");
    }

    #[test]
    fn turns_of_tools_are_not_learned() {
        let messages = [
            said("user", "sum"),
            json!({"role": "assistant", "content": "add"}),
            said("tool", "3"),
            said("assistant", "It is 3"),
        ];
        assert_eq!(assistant_spans(PLAIN, &messages).unwrap(), ["add<end>", "It is 3<end>"]);
    }

    #[test]
    fn a_prompt_that_opens_with_more_than_the_answer_keeps_is_no_obstacle() {
        let thinking = PLAIN.replace("%}<assistant>{%", "%}<assistant><think>{%");
        assert_eq!(assistant_spans(&thinking, &chat()).unwrap(), ["Hello<end>", "Ciao<end>"]);
    }

    #[test]
    fn templates_without_a_generation_prompt_work() {
        let bare = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
                    {% else %} {{ m.content }}</s>{% endif %}{% endfor %}";
        assert_eq!(assistant_spans(bare, &chat()).unwrap(), [" Hello</s>", " Ciao</s>"]);
    }

    #[test]
    fn only_the_last_turn_counts_when_earlier_ones_change() {
        let hiding = "{% for m in messages %}<{{ m.role }}>\
                      {% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<end>\
                      {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        assert_eq!(assistant_spans(hiding, &chat()).unwrap(), ["<think></think>Ciao<end>"]);
    }

    #[test]
    fn a_template_that_refuses_an_empty_history_gives_the_last_turn() {
        let strict =
            PLAIN.replace("{% for", "{% if not messages %}{{ raise_exception('empty') }}{% endif %}{% for");
        let messages = [said("assistant", "Hi"), said("user", "Who"), said("assistant", "Me")];
        assert_eq!(assistant_spans(&strict, &messages).unwrap(), ["Me<end>"]);
    }

    #[test]
    fn what_cannot_be_learned_is_explained() {
        let reason =
            |source: &str, messages: &[Value]| assistant_spans(source, messages).unwrap_err().to_string();
        assert_eq!(
            reason(PLAIN, &chat()[..1]),
            "no message has the role \"assistant\", so with masked prompts nothing is left to learn"
        );
        assert!(reason("{{ messages|length }}{{ messages[-1].content }}", &chat()).starts_with(
            "the chat template renders what comes before the last answer differently once the answer is there"
        ));
        assert!(reason("{{ raise_exception('no') }}", &chat()).contains("invalid operation: no"));
        let endless = vec![said("assistant", "a"); 1025];
        assert_eq!(reason(PLAIN, &endless), "the conversation has 1025 messages; at most 1024 are supported");
    }

    #[test]
    fn a_token_belongs_to_the_turn_it_ends_in() {
        let transcript = Transcript { text: String::new(), assistant_spans: vec![2..4, 6..9] };
        let learned: Vec<_> = (0..12).filter(|&end| transcript.is_assistant_token(end)).collect();
        assert_eq!(learned, [3, 4, 7, 8, 9]);
    }
}
