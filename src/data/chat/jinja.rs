//! The Jinja environment of transformers' chat templates (`utils/chat_template_utils.py`).
//!
//! Blocks are trimmed, methods of Python's strings and dicts work, `tojson` writes like `json.dumps`, and
//! `raise_exception`, `strftime_now` and `{% generation %}` are defined. Templates are untrusted code: they have no
//! access to files or the network and a limited number of instructions.

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python_json::{DumpOptions, dumps};

/// Maximum instructions per rendering, about one second; long conversations need some 10⁵.
const FUEL: u64 = 10_000_000;

/// An environment with these filters and functions, without templates.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    Ok(environment)
}

/// Replaces `{% generation %}`, which marks the assistant's tokens for transformers, by `{% with %}`: both render
/// their body in a scope of its own.
pub(super) fn replace_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        plain.push_str(before);
        let name_at = tag.find(|c: char| !matches!(c, '{' | '%' | '-' | '+') && !c.is_whitespace());
        let (opening, body) = tag.split_at(name_at.unwrap_or(tag.len()));
        let name_len = body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, after) = body.split_at(name_len);
        plain.push_str(opening);
        plain.push_str(match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
        rest = after;
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of a filter")]
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let dump_options = DumpOptions {
        indent: options.get("indent")?,
        separators: match separators.as_deref() {
            None => None,
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(invalid("separators must be a pair of strings")),
        },
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    serde_json::to_value(value)
        .and_then(|value| dumps(value, &dump_options))
        .map_err(|e| invalid(format!("tojson: {e}")))
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(invalid(message))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| invalid(format!("strftime_now({format:?}): {e}")))
}

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use minijinja::context;
    use proptest::prelude::*;

    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let messages =
            [context! { role => "user", content => "Hi" }, context! { role => "user", content => "Bye" }];
        environment()?.render_str(&replace_generation_tags(source), context! { messages })
    }

    fn refused(source: &str) -> String {
        render(source).unwrap_err().to_string()
    }

    /// Expected texts: jinja2 as transformers 5.23 configures it (`_compile_jinja_template`).
    #[test]
    fn the_dialect_is_jinja2() {
        for (source, expected) in [
            (
                "{{ none }}|{{ true }}|{{ x }}|{{ [1,'a',2.5] }}|{{ {'a': none} }}",
                "None|True||[1, 'a', 2.5]|{'a': None}",
            ),
            ("{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 % 3 }}", "3|3.5|2"),
            ("{{ 'abc'[::-1] }}{{ 'a-b'.split('-')[-1] }}{{ 'x'.startswith('x') }}", "cbabTrue"),
            (
                "{% set d = {'b': 1, 'a': 'é'} %}{{ d|tojson(sort_keys=true, separators=(',', ':')) }}",
                r#"{"a":"é","b":1}"#,
            ),
            ("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "b=1;a=2;"),
            (
                "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}\
                 {% if i == 3 %}{% break %}{% endif %}{{ i }}{{ loop.last }}{% endfor %}",
                "0False2False",
            ),
            ("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m('z', b='y') }}", "12zy"),
            (
                "a\n    {% if true %}\n  b\n    {% endif %}\nc\n  {%- if true %} d {%+ endif %}\n",
                "a\n  b\nc d ",
            ),
            (
                "{{ messages|selectattr('role','equalto','user')|list|length }}{{ messages[-1].content }}",
                "2Bye",
            ),
            ("{{ 'tab\\tq' | tojson }}{{ 'a\\nb'.splitlines() }}", r#""tab\tq"['a', 'b']"#),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn generation_tags_are_scopes_and_their_name_stays_a_word() {
        let source = "{% generation %}{% set q = 1 %}x{% endgeneration %}{{ q }}\n  \
                      {%- generation -%}  y  {%- endgeneration -%}  z";
        assert_eq!(render(source).unwrap(), "xyz");
        let source =
            "{% if add_generation_prompt %}{% endif %}{% set generation = 'generation' %}{{ generation }}";
        assert_eq!(render(source).unwrap(), "generation");
    }

    #[test]
    fn the_date_has_the_format_asked_for() {
        let date = render("{{ strftime_now('%d %b %Y') }}").unwrap();
        assert!(date.len() == 11 && date.ends_with(&jiff::Zoned::now().year().to_string()), "{date}");
        let error = refused("{{ strftime_now('%J') }}");
        assert!(error.contains("strftime_now(\"%J\")"), "{error}");
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let source =
            "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}";
        let error = refused(source);
        assert!(error.contains("ran out of fuel"), "{error}");
    }

    proptest! {
        #[test]
        fn only_generation_tags_are_rewritten(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["{%", "%}", "-", "+", " ", "generations", "set", "é", "{", "%", "\n"]),
                0..30,
            )
        ) {
            let source = parts.concat();
            prop_assert_eq!(replace_generation_tags(&source), source.as_str());
        }
    }

    #[test]
    fn wrong_arguments_are_explained() {
        for (source, reason) in [
            ("{{ 1|tojson(separators=('a',)) }}", "separators must be a pair of strings"),
            ("{{ 1|tojson(colour=1) }}", "unknown keyword argument 'colour'"),
            ("{{ messages[0].content.nothing() }}", "unknown method"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ] {
            let error = refused(source);
            assert!(error.contains(reason), "{error}");
        }
    }
}
