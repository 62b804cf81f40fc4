//! The tokenizer in the metadata of a file.
//!
//! | `tokenizer.ggml.model` | tokenizer |
//! |---|---|
//! | `gpt2` | byte-level BPE; `tokenizer.ggml.pre` names how texts are split into words |
//! | `llama` | BPE of `SentencePiece`, with `▁` for spaces; the score of a token says how early it is merged |

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use crate::data::Tokenizer;
use crate::io::gguf::{Array, Metadata, Strings, Value, rule_name};
use crate::{Error, Result};

/// Prefix of all keys.
const PREFIX: &str = "tokenizer.ggml";

/// Kinds of tokens (`enum llama_token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// A token with what the file says of it.
#[derive(Debug, Clone)]
struct Token {
    text: String,
    kind: Kind,
}

/// Describes `tokenizer` for a model with `rows` embeddings. Returns what llama.cpp does otherwise, one line each.
///
/// # Errors
/// A tokenizer of another kind; more tokens than embeddings.
pub(super) fn describe(tokenizer: &Tokenizer, rows: usize, metadata: &mut Metadata) -> Result<Vec<String>> {
    let json = tokenizer.to_json()?;
    let model = &json["model"];
    let is_byte_level =
        contains(&json["pre_tokenizer"], "ByteLevel") || contains(&json["decoder"], "ByteLevel");
    let is_pieces = model["byte_fallback"] == true;
    let kind = match model["type"].as_str() {
        Some("BPE") if is_byte_level => "gpt2",
        Some("BPE") if is_pieces => "llama",
        other => {
            return Err(Error::Config(format!(
                "a tokenizer of type {} cannot be expressed in GGUF, where tokens are those of byte-level BPE or of \
                 SentencePiece's BPE",
                other.unwrap_or("unknown")
            )));
        }
    };
    let tokens = tokens(&json, rows, is_pieces)?;
    let mut notes = Vec::new();
    metadata.insert(format!("{PREFIX}.model"), Value::String(kind.to_owned()));
    if kind == "gpt2" {
        let pre = rule_name(&json);
        if pre.is_none() {
            notes.push(
                "llama.cpp does not know how this tokenizer splits texts into words; it is written as \"default\", and \
                 some texts will have other tokens there"
                    .to_owned(),
            );
        }
        metadata.insert(format!("{PREFIX}.pre"), Value::String(pre.unwrap_or("default").to_owned()));
    }
    let mut texts = Strings::default();
    for token in &tokens {
        texts.push(&token.text)?;
    }
    metadata.insert(format!("{PREFIX}.tokens"), Value::Array(Array::String(texts)));
    let merges = merges(model)?;
    if kind == "llama" {
        let scores = scores(&tokens, &merges);
        metadata.insert(format!("{PREFIX}.scores"), Value::Array(Array::F32(scores)));
    }
    let kinds = tokens.iter().map(|token| token.kind as i32).collect();
    metadata.insert(format!("{PREFIX}.token_type"), Value::Array(Array::I32(kinds)));
    if kind == "gpt2" {
        let mut texts = Strings::default();
        for [left, right] in &merges {
            texts.push(&format!("{left} {right}"))?;
        }
        metadata.insert(format!("{PREFIX}.merges"), Value::Array(Array::String(texts)));
    } else {
        metadata.insert(format!("{PREFIX}.add_space_prefix"), Value::Bool(adds_space(&json)));
    }
    special_tokens(tokenizer, &json, metadata)?;
    if let Some(template) = tokenizer.chat_template() {
        for (name, source) in template.sources() {
            let key = if name == "default" { String::new() } else { format!(".{name}") };
            metadata.insert(format!("tokenizer.chat_template{key}"), Value::String(source.clone()));
        }
    }
    Ok(notes)
}

/// Whether `part`, or one of its parts, is of this type.
fn contains(part: &Json, kind: &str) -> bool {
    let lists = ["pretokenizers", "decoders", "normalizers"].map(|key| part[key].as_array());
    part["type"] == kind || lists.into_iter().flatten().flatten().any(|part| contains(part, kind))
}

/// All tokens by id; ids without one are unused.
fn tokens(json: &Json, rows: usize, is_pieces: bool) -> Result<Vec<Token>> {
    let vocabulary = json["model"]["vocab"].as_object();
    let added = json["added_tokens"].as_array();
    let unknown = json["model"]["unk_token"].as_str();
    let mut tokens: BTreeMap<usize, Token> = BTreeMap::new();
    for (text, id) in vocabulary.into_iter().flatten() {
        let kind = match text.as_str() {
            text if is_pieces && is_byte(text) => Kind::Byte,
            text if Some(text) == unknown => Kind::Unknown,
            _ => Kind::Normal,
        };
        tokens.insert(id.as_u64().unwrap_or_default() as usize, Token { text: text.clone(), kind });
    }
    for token in added.into_iter().flatten() {
        let (Some(id), Some(text)) = (token["id"].as_u64(), token["content"].as_str()) else { continue };
        let is_special = token["special"] == true;
        let kind = match text {
            text if Some(text) == unknown => Kind::Unknown,
            _ if is_special => Kind::Control,
            _ => Kind::UserDefined,
        };
        // llama.cpp looks for these in the text itself, where spaces are spaces.
        let text = if is_pieces && !is_special { text.replace('▁', " ") } else { text.to_owned() };
        tokens.insert(id as usize, Token { text, kind });
    }
    let needed = tokens.last_key_value().map_or(0, |(id, _)| id + 1);
    if needed > rows {
        return Err(Error::Config(format!(
            "the tokenizer has {needed} tokens, but the model has {rows} embeddings: GGUF needs one for each"
        )));
    }
    let unused = |id| Token { text: format!("[PAD{id}]"), kind: Kind::Unused };
    Ok((0..rows).map(|id| tokens.remove(&id).unwrap_or_else(|| unused(id))).collect())
}

/// Whether a token of `SentencePiece` stands for a byte: `<0x0A>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The pairs that are merged, the first ones first.
fn merges(model: &Json) -> Result<Vec<[String; 2]>> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(left, right)| [left.to_owned(), right.to_owned()]),
        Json::Array(parts) => match parts.as_slice() {
            [Json::String(left), Json::String(right)] => Some([left.clone(), right.clone()]),
            _ => None,
        },
        _ => None,
    };
    let merges = model["merges"].as_array().into_iter().flatten();
    merges
        .map(|merge| {
            pair(merge).ok_or_else(|| Error::ModelLoading(format!("the tokenizer has the merge {merge}")))
        })
        .collect()
}

/// Scores in the order of merges: `SentencePiece` joins the pair whose token has the highest score.
fn scores(tokens: &[Token], merges: &[[String; 2]]) -> Vec<f32> {
    let mut order = HashMap::new();
    for (rank, [left, right]) in merges.iter().enumerate() {
        order.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |token: &Token| match token.kind {
        Kind::Normal => -(order.get(&token.text).copied().unwrap_or(merges.len()) as f32),
        _ => 0.0,
    };
    tokens.iter().map(score).collect()
}

/// Whether a space is put before a text.
fn adds_space(json: &Json) -> bool {
    let prepends = |part: &Json| {
        part["type"] == "Prepend"
            || (part["type"] == "Metaspace"
                && matches!(part["prepend_scheme"].as_str(), Some("first" | "always")))
    };
    let parts = |part: &Json| {
        let lists = ["pretokenizers", "normalizers"].map(|key| part[key].as_array());
        prepends(part) || lists.into_iter().flatten().flatten().any(prepends)
    };
    parts(&json["normalizer"]) || parts(&json["pre_tokenizer"])
}

/// Ids of special tokens, and which of them are put around a text.
fn special_tokens(tokenizer: &Tokenizer, json: &Json, metadata: &mut Metadata) -> Result<()> {
    let unknown = json["model"]["unk_token"].as_str();
    let unknown = unknown.and_then(|text| json["model"]["vocab"][text].as_u64());
    let eos = tokenizer.eos_ids();
    for (name, id) in [
        ("bos_token_id", tokenizer.bos_id()),
        ("eos_token_id", eos.first().copied()),
        // What ends an answer, where that is another token.
        ("eot_token_id", eos.get(1).copied()),
        ("unknown_token_id", unknown.map(|id| id as u32)),
        ("padding_token_id", tokenizer.pad_token_id()),
    ] {
        if let Some(id) = id {
            metadata.insert(format!("{PREFIX}.{name}"), Value::U32(id));
        }
    }
    let around = tokenizer.encode("", true)?;
    let (first, last) = (around.first().copied(), around.last().copied());
    metadata.insert(
        format!("{PREFIX}.add_bos_token"),
        Value::Bool(first.is_some() && first == tokenizer.bos_id()),
    );
    // A token that is both is the beginning.
    let ends = around.len() > 1 || first != tokenizer.bos_id();
    metadata.insert(
        format!("{PREFIX}.add_eos_token"),
        Value::Bool(ends && last.is_some_and(|last| eos.contains(&last))),
    );
    Ok(())
}
