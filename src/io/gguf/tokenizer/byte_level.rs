//! Byte-level BPE, with the rules by which `tokenizer.ggml.pre` cuts a text into words.
//!
//! The expressions are those of the tokenizers of the models, which llama.cpp rewrites for its own engine.

use serde_json::{Value, json};

use super::{MAX_MERGES, Vocabulary, missing};
use crate::{Error, Result};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What `default` stands for: the rules of llama.cpp for a tokenizer that it does not know.
const UNKNOWN: [&str; 2] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2];
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const UNKNOWN_DIGITS: [&str; 2] = [r"\p{N}+", "[0-9][0-9][0-9]"];

/// A rule of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// That of GPT-2.
    Gpt2,
    /// Digits one by one, then that of GPT-2.
    Digits,
    /// A single expression.
    Expression(&'static str),
    /// Those of `default`.
    Unknown,
}

/// What belongs to a name in `tokenizer.ggml.pre`.
#[derive(Debug, Clone, Copy)]
struct Rule {
    words: Words,
    /// Whether a word that is a token is not cut.
    ignores_merges: bool,
    adds_bos: bool,
    /// Whether a text is composed (NFC) first.
    composes: bool,
}

/// Names of `tokenizer.ggml.pre`, by rule.
const NAMES: [(&[&str], Rule); 7] = {
    const GPT2: Rule = Rule { words: Words::Gpt2, ignores_merges: false, adds_bos: false, composes: false };
    const THREE: Rule = Rule { words: Words::Expression(LLAMA3), ..GPT2 };
    [
        (&["default"], Rule { words: Words::Unknown, ..GPT2 }),
        (&["gpt-2", "phi-2", "mpt", "olmo", "exaone4", "mellum", "trillion", "granite-docling"], GPT2),
        (
            &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
            Rule { words: Words::Digits, ..GPT2 },
        ),
        (
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
            Rule { ignores_merges: true, adds_bos: true, ..THREE },
        ),
        (&["dbrx", "smaug-bpe", "chatglm-bpe"], THREE),
        (
            &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"],
            Rule { words: Words::Expression(QWEN2), composes: true, ..GPT2 },
        ),
        (
            &["tekken"],
            Rule { words: Words::Expression(TEKKEN), ignores_merges: true, adds_bos: true, ..GPT2 },
        ),
    ]
};

/// As [`NAMES`], for the names of GPT-4o.
const GPT4O_NAMES: [&str; 3] = ["gpt-4o", "llama4", "kanana2"];

fn rule(name: &str) -> Result<Rule> {
    if GPT4O_NAMES.contains(&name) {
        let words = Words::Expression(GPT4O);
        return Ok(Rule { words, ignores_merges: false, adds_bos: false, composes: false });
    }
    let found = NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, rule)| *rule);
    found.ok_or_else(|| {
        let known: Vec<&str> = NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        Error::ModelLoading(format!(
            "\"tokenizer.ggml.pre\" is \"{name}\", whose rule of words is not known here; known are: {}, {}",
            known.join(", "),
            GPT4O_NAMES.join(", ")
        ))
    })
}

/// The `tokenizer.json` of `vocabulary`, and whether BOS is put before a text by default.
///
/// # Errors
/// An unknown rule of words; merges that are missing.
pub(super) fn pipeline(vocabulary: &Vocabulary) -> Result<(Value, bool)> {
    let metadata = vocabulary.metadata;
    let rule = rule(metadata.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let key = "tokenizer.ggml.merges";
    let merges = metadata.strings(key)?.ok_or_else(|| missing(key))?;
    if merges.len() > MAX_MERGES {
        return Err(Error::ModelLoading(format!(
            "\"{key}\" has {} entries, expected at most {MAX_MERGES}",
            merges.len()
        )));
    }
    let pairs = merges.iter().map(|merge| {
        // The first token may begin with the character that separates them.
        let from = merge.chars().next().map_or(0, char::len_utf8);
        let at = merge.get(from..).and_then(|rest| rest.find(' ')).map(|at| from + at);
        let pair = at.map(|at| json!([merge[..at], merge[at + 1..]]));
        pair.ok_or_else(|| {
            Error::ModelLoading(format!("\"{key}\" holds {merge:?}, which is not a pair of tokens"))
        })
    });
    let pairs: Vec<Value> = pairs.collect::<Result<_>>()?;
    let tokenizer = json!({
        "normalizer": if rule.composes { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer(rule.words),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rule.ignores_merges, "vocab": vocabulary.ids(), "merges": pairs,
        },
    });
    Ok((tokenizer, rule.adds_bos))
}

fn pre_tokenizer(words: Words) -> Value {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |expression: &str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let steps = match words {
        Words::Gpt2 => return bytes(true),
        Words::Digits => vec![digits, bytes(true)],
        Words::Expression(expression) => vec![split(expression), bytes(false)],
        Words::Unknown => {
            let expressions = UNKNOWN.into_iter().chain(UNKNOWN_DIGITS);
            expressions.map(split).chain([bytes(false)]).collect()
        }
    };
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The name in `tokenizer.ggml.pre` of the rule by which `tokenizer`, a `tokenizer.json`, cuts a text into words; `None` if
/// there is none.
#[must_use]
pub fn rule_name(tokenizer: &Value) -> Option<&'static str> {
    let ignores_merges = tokenizer["model"]["ignore_merges"] == true;
    let steps = steps(&tokenizer["pre_tokenizer"]);
    let known = NAMES.iter().find(|(_, rule)| {
        rule.ignores_merges == ignores_merges && self::steps(&pre_tokenizer(rule.words)) == steps
    });
    let gpt4o = || self::steps(&pre_tokenizer(Words::Expression(GPT4O))) == steps && !ignores_merges;
    known.map(|(names, _)| names[0]).or_else(|| gpt4o().then_some(GPT4O_NAMES[0]))
}

/// What the steps of a pre-tokenizer do to a text.
fn steps(pre_tokenizer: &Value) -> Vec<Value> {
    if let Some(parts) = pre_tokenizer["pretokenizers"].as_array() {
        return parts.iter().flat_map(steps).collect();
    }
    let keys: &[&str] = match pre_tokenizer["type"].as_str() {
        Some("ByteLevel") => &["type", "add_prefix_space", "use_regex"],
        Some("Split") => &["type", "pattern", "behavior", "invert"],
        Some("Digits") => &["type", "individual_digits"],
        _ => return vec![pre_tokenizer.clone()],
    };
    vec![keys.iter().map(|key| pre_tokenizer[key].clone()).collect()]
}

#[cfg(test)]
mod rule_tests {
    use super::*;

    #[test]
    fn rules_have_one_name_both_ways() {
        for (names, rule) in &NAMES {
            let tokenizer = json!({"pre_tokenizer": pre_tokenizer(rule.words), "model": {"ignore_merges": rule.ignores_merges}});
            assert_eq!(rule_name(&tokenizer), Some(names[0]));
        }
        let spaces = json!({"pre_tokenizer": {"type": "Whitespace"}, "model": {}});
        assert_eq!(rule_name(&spaces), None);
        // Where a key is absent, it is as in the library.
        let digits = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        ]});
        assert_eq!(rule_name(&json!({"pre_tokenizer": digits, "model": {}})), Some("smollm"));
    }
}
