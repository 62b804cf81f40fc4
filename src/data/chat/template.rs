//! Chat templates: the Jinja templates of checkpoints, which render a conversation as text.

use minijinja::value::Serde;
use minijinja::{Environment, Template, Value as Jinja, context};
use serde_json::Value;

use super::jinja;
use crate::{Error, Result};

const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "tool_use";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles `source`; `bos_token` and `eos_token` are available to the template under these names.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the line of the syntax error.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self> {
        let mut environment = jinja::environment().map_err(compile_error)?;
        for (name, token) in [("bos_token", bos_token), ("eos_token", eos_token)] {
            if let Some(token) = token {
                environment.add_global(name, token);
            }
        }
        let mut template = Self { environment };
        template.add(DEFAULT, source)?;
        Ok(template)
    }

    /// Adds the template that renders conversations with tools.
    ///
    /// # Errors
    /// See [`ChatTemplate::new`].
    pub fn with_tool_use(mut self, source: &str) -> Result<Self> {
        self.add(TOOL_USE, source)?;
        Ok(self)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        let source = jinja::replace_generation_tags(source).into_owned();
        self.environment.add_template_owned(name, source).map_err(compile_error)
    }

    /// Renders a conversation. `add_generation_prompt` appends the beginning of an assistant message.
    ///
    /// # Errors
    /// [`Error::Dataset`] with the reason if the template raises an exception or exceeds its instruction limit.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.prepare(messages, tools)?.render(messages.len(), add_generation_prompt)
    }

    /// Converts messages once, to be rendered several times.
    pub(super) fn prepare(&self, messages: &[Value], tools: Option<&Value>) -> Result<Conversation<'_>> {
        let with_tools = tools.and_then(|_| self.environment.get_template(TOOL_USE).ok());
        let template = match with_tools {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(render_error)?,
        };
        Ok(Conversation {
            template,
            messages: messages.iter().map(|message| Jinja::from(Serde(message))).collect(),
            tools: Jinja::from(Serde(tools)),
        })
    }
}

/// Messages in the representation of the template engine.
pub(super) struct Conversation<'t> {
    template: Template<'t, 't>,
    messages: Vec<Jinja>,
    tools: Jinja,
}

impl Conversation<'_> {
    /// Renders the first `count` messages.
    pub(super) fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String> {
        let messages = Jinja::from(self.messages[..count].to_vec());
        let tools = &self.tools;
        self.template
            .render(context! { messages, tools, documents => (), add_generation_prompt })
            .map_err(render_error)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn compile_error(error: minijinja::Error) -> Error {
    Error::ModelLoading(format!("the chat template cannot be compiled: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn render_error(error: minijinja::Error) -> Error {
    Error::Dataset(format!("the chat template cannot render this conversation: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Templates of the shapes that are in use. The expected texts were rendered by the jinja2
    // environment of transformers 5.23 (`_compile_jinja_template`).
    const CHATML: &str = r##"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- else %}
        {%- generation %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {{- '\n' ~ call.function.name ~ ' ' ~ (call.function.arguments | tojson(indent=2)) }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"##;
    const LLAMA3: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%%") %}
    {%- endif %}
{%- endif %}
{% set system_message = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date_string + "\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"#;
    const MISTRAL: &str = r"{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'].strip() + '\n\n' %}{% else %}{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}{{ bos_token }}{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% set ns = namespace(content=message['content']) %}
{% if loop.index0 == 0 %}{% set ns.content = system_message + message['content'] %}{% endif %}
{% if message['role'] == 'user' %}
    {{ '[INST] ' + ns.content + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
    {{ ' ' + ns.content.strip() + eos_token }}
{% endif %}
{% endfor %}";

    fn conversation() -> Vec<Value> {
        vec![
            json!({"role": "system", "content": " Be brief. "}),
            json!({"role": "user", "content": "Hi <b> & 'you'"}),
            json!({"role": "assistant", "content": " Hello é"}),
            json!({"role": "user", "content": "Bye"}),
        ]
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
    }

    fn render(source: &str, messages: &[Value]) -> Result<String> {
        template(source).render(messages, None, false)
    }

    #[test]
    fn chatml_as_transformers_renders_it() {
        let text = template(CHATML).render(&conversation(), None, true).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi <b> & 'you'<|im_end|>\n\
             <|im_start|>assistant\n Hello é<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
        );
        let text = render(CHATML, &conversation()[1..3]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi <b> & 'you'<|im_end|>\n\
             <|im_start|>assistant\n Hello é<|im_end|>\n"
        );
    }

    #[test]
    fn tools_are_written_like_python_writes_json() {
        let tools = json!([{"type": "function", "function": {"name": "get", "description": "it's <é>",
            "parameters": {"x": 1.0, "b": [true, null, 1e-5], "a": {}}}}]);
        let call = json!({"function": {"name": "get", "arguments": {"b": [1, {}], "a": "ü"}}});
        let messages = [
            json!({"role": "user", "content": "go"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        ];
        assert_eq!(
            template(CHATML).render(&messages, Some(&tools), false).unwrap(),
            "<|im_start|>system\n# Tools\n{\"type\": \"function\", \"function\": {\"name\": \"get\", \
             \"description\": \"it's <é>\", \"parameters\": {\"x\": 1.0, \"b\": [true, null, 1e-05], \
             \"a\": {}}}}<|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\nget {\n  \"b\": [\n    \
             1,\n    {}\n  ],\n  \"a\": \"ü\"\n}<|im_end|>\n"
        );
    }

    #[test]
    fn llama_3_as_transformers_renders_it() {
        assert_eq!(
            template(LLAMA3).render(&conversation(), None, true).unwrap(),
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday: %\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi <b> & 'you'<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nHello é<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        );
    }

    #[test]
    fn mistral_as_transformers_renders_it() {
        assert_eq!(
            template(MISTRAL).render(&conversation(), None, true).unwrap(),
            "<s>    [INST] Be brief.\n\nHi <b> & 'you' [/INST]\n     Hello é</s>\n    [INST] Bye [/INST]\n"
        );
        let error = render(MISTRAL, &conversation()[2..]).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "the chat template cannot render this conversation: invalid operation: \
                 Conversation roles must alternate user/assistant/user/assistant/..."
            ),
            "{error}"
        );
    }

    #[test]
    fn templates_know_the_special_tokens_and_what_is_not_there() {
        let source =
            "{{ bos_token }}{{ eos_token }} {{ tools is none }} {{ documents is none }} {{ pad_token }}.";
        assert_eq!(render(source, &[]).unwrap(), "<s></s> True True .");
        let bare = ChatTemplate::new("{{ bos_token is defined }}", None, None).unwrap();
        assert_eq!(bare.render(&[], None, false).unwrap(), "False");
    }

    #[test]
    fn the_tool_template_serves_conversations_with_tools() {
        let template = template("plain").with_tool_use("tools").unwrap();
        assert_eq!(template.render(&[], None, false).unwrap(), "plain");
        assert_eq!(template.render(&[], Some(&json!([])), false).unwrap(), "tools");
    }

    #[test]
    fn a_broken_template_is_explained() {
        let error = ChatTemplate::new("{% if %}", None, None).unwrap_err();
        assert!(matches!(error, Error::ModelLoading(_)));
        assert!(
            error.to_string().starts_with("the chat template cannot be compiled: syntax error:"),
            "{error}"
        );
    }
}
