//! Turns of the assistant in recorded renderings.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::recorded;
use super::renderer::{Rendered, Renderer, Request};
use super::{ChatTemplate, Dialogue, Targets, Transcript, transcribe};
use crate::{Error, Result};

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}\
                     {% if add_generation_prompt %}<assistant>{% endif %}";
/// Terminators that depend on the position, with `{% generation %}`.
const HARMONY: &str = "{%for m in messages%}<|start|>{{m.role}}<|message|>{%if m.role=='assistant'%}{%generation%}\
    {{m.content}}{{'<|return|>' if loop.last else '<|end|>'}}{%endgeneration%}{%else%}{{m.content}}<|end|>{%endif%}\
    {%endfor%}{%if add_generation_prompt%}<|start|>assistant<|message|>{%endif%}";
/// Reasoning of earlier turns is hidden, an empty one is written in the last.
const THINKING: &str = "{% for m in messages %}<{{ m.role }}>\n\
    {% if m.role == 'assistant' %}{% set content = m.content.split('</think>')[-1].lstrip('\\n') %}\
    {% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n{% endif %}{{ content }}\
    {% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}\
    {% else %}{{ m.content }}{% endif %}<end>\n{% endfor %}\
    {% if add_generation_prompt %}<assistant>\n{% if enable_thinking is false %}<think>\n\n</think>\n{% endif %}{% endif %}";
/// Ends with EOS when no answer is asked for.
const PHI3: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}";
/// The generation prompt stands in the loop.
const ZEPHYR: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n\
    {% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}";
const LLAMA2: &str = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
    {% else %} {{ m.content }}</s>{% endif %}{% endfor %}";

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn chat() -> Vec<Value> {
    vec![said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye"), said("assistant", "Ciao")]
}

fn template(source: &str) -> ChatTemplate {
    let variables = [("eos_token".to_owned(), json!("</s>"))].into_iter().collect();
    ChatTemplate::new(PathBuf::from("t.jinja"), recorded::sources(source), variables, recorded::renderer())
}

fn transcript(source: &str, messages: &[Value], targets: Targets, options: &Value) -> Result<Transcript> {
    let options: Map<String, Value> = options.as_object().cloned().unwrap_or_default();
    let dialogue = Dialogue { messages: messages.to_vec(), tools: None, options: &options, targets };
    let transcripts = transcribe(&template(source), &[dialogue]).map_err(|(_, error)| error)?;
    Ok(transcripts.into_iter().next().unwrap())
}

fn learned(source: &str, messages: &[Value]) -> Vec<String> {
    learned_with(source, messages, &json!({}))
}

fn learned_with(source: &str, messages: &[Value], options: &Value) -> Vec<String> {
    texts(&transcript(source, messages, Targets::Turns(0), options).unwrap())
}

fn texts(transcript: &Transcript) -> Vec<String> {
    transcript.spans.iter().map(|span| transcript.text[span.clone()].to_owned()).collect()
}

fn reason(source: &str, messages: &[Value]) -> String {
    transcript(source, messages, Targets::Turns(0), &json!({})).unwrap_err().to_string()
}

#[test]
fn every_turn_with_its_end_but_not_the_whitespace_behind() {
    assert_eq!(learned(PLAIN, &chat()), ["Hello<end>", "Ciao<end>"]);
    assert_eq!(learned(PHI3, &chat()), ["Hello<|end|>", "Ciao<|end|>\n</s>"]);
    assert_eq!(learned(ZEPHYR, &chat()), ["Hello</s>", "Ciao</s>"]);
    assert_eq!(learned(LLAMA2, &chat()), [" Hello</s>", " Ciao</s>"]);
}

#[test]
fn generation_blocks_are_what_is_learned() {
    assert_eq!(learned(HARMONY, &chat()), ["Hello<|end|>", "Ciao<|return|>"]);
    let last_only = "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}{% endgeneration %}\
                     {% else %}{{ m.content }}{% endif %}{% endfor %}";
    let transcript = transcript(last_only, &chat(), Targets::Turns(0), &json!({})).unwrap();
    assert_eq!((texts(&transcript), transcript.unmarked_turns), (vec!["Ciao".to_owned()], 1));
    let none = "{% for m in messages %}{{ m.content }}{% if m.role == 'model' %}{% generation %}x{% endgeneration %}\
                {% endif %}{% endfor %}";
    assert!(reason(none, &chat()).contains("but marks nothing of this conversation"));
}

#[test]
fn turns_that_are_rendered_differently_later_are_learned_as_they_are() {
    assert_eq!(learned(THINKING, &chat()), ["Hello<end>", "<think>\n\n</think>\nCiao<end>"]);
    let reasoned = json!({"role": "assistant", "content": "3", "reasoning": "1+2"});
    assert_eq!(learned(THINKING, &[said("user", "sum"), reasoned]), ["<think>\n1+2\n</think>\n3<end>"]);
    // What the generation prompt gives is not learned.
    assert_eq!(
        learned_with(THINKING, &chat(), &json!({"enable_thinking": false})),
        ["Hello<end>", "Ciao<end>"]
    );
}

#[test]
fn tool_calls_are_learned_and_answers_of_tools_are_not() {
    let call = json!({"function": {"name": "add", "arguments": "{\"a\": 1}"}});
    let messages = [
        said("user", "sum"),
        json!({"role": "assistant", "content": "", "tool_calls": [call]}),
        said("tool", "3"),
        said("assistant", "It is 3"),
    ];
    assert_eq!(
        learned(THINKING, &messages),
        [
            "<call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</call><end>",
            "<think>\n\n</think>\nIt is 3<end>"
        ]
    );
}

#[test]
fn an_assistant_may_speak_first() {
    let reads_first = "{{ messages[0].role }}: ".to_owned() + PLAIN;
    let messages = [said("assistant", "I begin"), said("user", "Who"), said("assistant", "Me")];
    assert_eq!(learned(PLAIN, &messages), ["I begin<end>", "Me<end>"]);
    assert_eq!(learned(&reads_first, &messages), ["I begin<end>", "Me<end>"]);
}

#[test]
fn an_answer_that_begins_like_the_prompt_is_learned_whole() {
    let thinking = PLAIN.replace("%}<assistant>{%", "%}<assistant><think>{%");
    assert_eq!(learned(&thinking, &chat()), ["Hello<end>", "Ciao<end>"]);
    let similar = [said("user", "s"), said("assistant", "<thing>")];
    assert_eq!(learned(&thinking, &similar), ["<thing><end>"]);
}

#[test]
fn messages_that_are_rendered_by_macros_are_found_by_prefixes() {
    let macros = "{% macro all(list) %}{% for m in list %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}{% endmacro %}\
                  {{ all(messages) }}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(learned(macros, &chat()), ["Hello<end>", "Ciao<end>"]);
    let counted = "{{ messages | length }}".to_owned() + macros;
    assert!(
        reason(&counted, &chat())
            .starts_with("the content of message 2 (assistant) cannot be found in the text")
    );
}

#[test]
fn a_loop_may_run_over_indices() {
    let indices = "{% for i in range(messages | length) %}{% set m = messages[i] %}<{{ m.role }}>{{ m.content }}<end>\n\
                   {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(learned(indices, &chat()), ["Hello<end>", "Ciao<end>"]);
    // An answer of a tool that is rendered with the call is not learned.
    let ahead = "{% for m in messages %}{% set next = messages[loop.index] %}{% if m.role != 'tool' %}<{{ m.role }}>\
                 {{ m.content }}{% for i in range(loop.index, messages | length) %}{% set tool = messages[i] %}\
                 {% if tool.role != 'tool' %}{% break %}{% endif %}[{{ tool.content }}]{% endfor %}<end>{% endif %}\
                 {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let messages =
        [said("user", "a"), said("assistant", "call"), said("tool", "3"), said("assistant", "three")];
    assert_eq!(learned(ahead, &messages), ["call", "<end>", "three<end>"]);
}

#[test]
fn the_first_message_may_be_rendered_before_the_loop() {
    let first = "<{{ messages[0].role }}>{{ messages[0].content }}<end>\n{% for m in messages[1:] %}\
                 <{{ m.role }}>{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    assert_eq!(learned(first, &chat()), ["Hello<end>", "Ciao<end>"]);
}

#[test]
fn a_generation_prompt_that_was_not_asked_for_is_not_learned() {
    let always =
        PLAIN.replace("{% if add_generation_prompt %}", "").replace("<assistant>{% endif %}", "<assistant>");
    assert_eq!(learned(&always, &chat()), ["Hello<end>", "Ciao<end>"]);
}

#[test]
fn what_a_template_leaves_out_is_named() {
    let lists = PLAIN.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}");
    assert!(reason(&lists, &chat()).starts_with("the content of message 2 (assistant) cannot be found"));
    let call = json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]});
    assert_eq!(
        reason(PLAIN, &[said("user", "sum"), call]),
        "the tool calls of message 2 (assistant) cannot be found in the text that the chat template renders: use a \
         template that renders it, mark what the assistant generates with {% generation %}, or give the message \
         \"weight\": 0"
    );
}

#[test]
fn some_turns_may_be_left_out() {
    let mut messages = chat();
    messages[1]["weight"] = json!(0);
    assert_eq!(learned(PLAIN, &messages), ["Ciao<end>"]);
    assert_eq!(learned(HARMONY, &messages), ["Ciao<|return|>"]);
    messages[3]["weight"] = json!(0);
    assert!(learned(PLAIN, &messages).is_empty());
    let completion = transcript(PLAIN, &chat(), Targets::Turns(2), &json!({})).unwrap();
    assert_eq!(texts(&completion), ["Ciao<end>"]);
}

#[test]
fn what_follows_the_last_answer_is_left_out() {
    let transcript = transcript(PLAIN, &chat()[..3], Targets::Turns(0), &json!({})).unwrap();
    assert_eq!(transcript.text, "<user>Hi<end>\n<assistant>Hello<end>\n");
}

#[test]
fn answers_of_pairs_are_learned_to_the_end() {
    let transcript = transcript(PLAIN, &chat(), Targets::Answer(1), &json!({})).unwrap();
    assert_eq!(texts(&transcript), ["Hello<end>\n<user>Bye<end>\n<assistant>Ciao<end>\n"]);
}

#[test]
fn what_cannot_be_learned_is_explained() {
    assert_eq!(
        reason(PLAIN, &chat()[..1]),
        "no message has the role \"assistant\", so with masked prompts nothing is left to learn"
    );
    assert_eq!(
        reason("{{ raise_exception('roles must alternate') }}", &chat()),
        "the chat template cannot render this conversation: roles must alternate"
    );
    let error = transcript("{% if %}", &chat(), Targets::All, &json!({})).unwrap_err();
    assert!(matches!(error, Error::ModelLoading(_)));
    assert!(
        error.to_string().starts_with("t.jinja: the chat template cannot be compiled: line 1: "),
        "{error}"
    );
}

/// Answers with nothing, as a renderer that a template has taken over might.
#[derive(Debug)]
struct Silent;

impl Renderer for Silent {
    fn render(&self, request: &Request<'_>) -> Result<Vec<Vec<Rendered>>, (usize, Error)> {
        Ok(vec![Vec::new(); request.conversations.len()])
    }
}

#[test]
fn an_answer_without_renderings_is_an_error() {
    let silent = ChatTemplate::new(PathBuf::from("t"), recorded::sources(""), Map::new(), Arc::new(Silent));
    let options = Map::new();
    let dialogue = Dialogue { messages: chat(), tools: None, options: &options, targets: Targets::Turns(0) };
    let (_, error) = transcribe(&silent, &[dialogue]).unwrap_err();
    assert_eq!(error.to_string(), "the chat template was not rendered");
}

#[test]
fn a_token_is_learned_if_some_of_it_is() {
    let transcript = Transcript { spans: vec![2..4, 6..9], ..Transcript::default() };
    let is_target = |start, end| transcript.is_target(&(start..end));
    assert!(!is_target(0, 2) && is_target(0, 3) && is_target(3, 4) && !is_target(4, 6));
    assert!(is_target(5, 7) && is_target(8, 12) && !is_target(9, 10));
}

#[test]
fn reserved_names_are_no_options() {
    let mut template = template(PLAIN);
    let options = [("tools".to_owned(), json!([]))].into_iter().collect();
    assert_eq!(
        template.add_options(&options).unwrap_err().to_string(),
        "chat_template_kwargs cannot set \"tools\", which is given by the conversation"
    );
    assert!(template.render(&chat(), None, true).unwrap().ends_with("Ciao<end>\n<assistant>"));
}
