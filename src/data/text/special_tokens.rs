//! Tokens that the files beside `tokenizer.json` add to its vocabulary, with the precedence and the ids of transformers
//! (`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`).
//!
//! | file                      | keys                                                                               |
//! |---------------------------|------------------------------------------------------------------------------------|
//! | `tokenizer_config.json`   | `added_tokens_decoder`, `bos_token` and others, `extra_special_tokens`             |
//! | `special_tokens_map.json` | named and extra tokens, which replace those above; unless `added_tokens_decoder` is given |
//! | `added_tokens.json`       | ids by token; unless `added_tokens_decoder` is given                                |

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::files::{file_error, read_json};
use crate::Result;

/// Names of special tokens, in the order in which new ones get their ids.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokens of a folder besides those of `tokenizer.json`.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Tokens with their ids, and the file that declares them.
    declared: (BTreeMap<u32, AddedToken>, PathBuf),
    /// Special tokens with names, those of [`NAMES`] first.
    named: Vec<(String, AddedToken)>,
    /// Special tokens without names.
    extra: Vec<AddedToken>,
}

impl SpecialTokens {
    /// Reads the files of `folder`; `config` is its `tokenizer_config.json`, `tokenizer` its `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::ModelLoading`](crate::Error::ModelLoading) with the file and the key; [`Error::Io`](crate::Error::Io).
    pub(super) fn read(folder: &Path, config: &Value, tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        let mut keys = config.as_object().cloned().unwrap_or_default();
        rename_additional(&mut keys);
        let declared = if let Some(Value::Object(tokens)) = keys.remove("added_tokens_decoder") {
            let file = folder.join("tokenizer_config.json");
            (parse_added_tokens_decoder(&tokens, &file)?, file)
        } else {
            merge_special_tokens_map(&mut keys, read_json(&folder.join("special_tokens_map.json"))?);
            rename_additional(&mut keys);
            let file = folder.join("added_tokens.json");
            let mut tokens = parse_added_tokens(&read_json(&file)?, &keys, &file)?;
            let existing = tokenizer.get_added_tokens_decoder();
            tokens.retain(|id, _| !existing.contains_key(id));
            (tokens, file)
        };
        Ok(Self { declared, named: named_tokens(&keys), extra: extra_tokens(&keys) })
    }

    /// The text of the special token `name`.
    pub(super) fn text_of(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(other, _)| other == name).map(|(_, token)| token.content.as_str())
    }

    /// Adds the tokens that `tokenizer` does not have yet, or has with other flags.
    ///
    /// # Errors
    /// [`Error::ModelLoading`](crate::Error::ModelLoading) if a new token cannot have the id that it is declared with.
    pub(super) fn add_to(&self, tokenizer: &mut tokenizers::Tokenizer) -> Result<()> {
        let (declared, file) = &self.declared;
        let existing: HashSet<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let mut tokens: Vec<_> =
            declared.values().filter(|&token| !existing.contains(token)).cloned().collect();
        let mut known: HashSet<_> =
            existing.iter().chain(&tokens).map(|token| token.content.clone()).collect();
        let named = self.named.iter().map(|(_, token)| token);
        tokens.extend(named.chain(&self.extra).filter(|token| known.insert(token.content.clone())).cloned());
        for token in &mut tokens {
            token.special |= self.named.iter().any(|(_, named)| named.content == token.content);
        }
        let is_new = |(_, token): &(_, &AddedToken)| tokenizer.token_to_id(&token.content).is_none();
        let new: Vec<_> = declared.iter().filter(is_new).collect();
        tokenizer.add_tokens(tokens).map_err(|e| file_error(file, e))?;
        for (&id, AddedToken { content, .. }) in new {
            if let Some(other) = tokenizer.token_to_id(content).filter(|&other| other != id) {
                return Err(file_error(
                    file,
                    format!(
                        "the token {content:?} has the id {id}, but it is not in tokenizer.json, where the next free id is \
                         {other}; add it to tokenizer.json with its id"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Parses `added_tokens_decoder`, tokens by their ids.
fn parse_added_tokens_decoder(tokens: &Map<String, Value>, file: &Path) -> Result<BTreeMap<u32, AddedToken>> {
    let token = |(id, value): (&String, &Value)| {
        let token = id.parse().ok().zip(parse_token(value, false));
        token.ok_or_else(|| {
            file_error(file, format!("added_tokens_decoder has {id:?}: {value}, expected an id and a token"))
        })
    };
    tokens.iter().map(token).collect()
}

/// Parses `added_tokens.json`, ids by the texts of tokens; those among `keys` are special.
fn parse_added_tokens(
    ids: &Value,
    keys: &Map<String, Value>,
    file: &Path,
) -> Result<BTreeMap<u32, AddedToken>> {
    let named = named_tokens(keys).into_iter().map(|(_, token)| token);
    let special: HashSet<_> = named.chain(extra_tokens(keys)).map(|token| token.content).collect();
    let token = |(content, id): (&String, &Value)| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| file_error(file, format!("the id of {content:?} is not a number")))?;
        Ok((id, AddedToken::from(content, special.contains(content))))
    };
    ids.as_object().into_iter().flatten().map(token).collect()
}

/// Renames `additional_special_tokens`, the name of `extra_special_tokens` before transformers 5.
fn rename_additional(keys: &mut Map<String, Value>) {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if keys.get("extra_special_tokens").is_none_or(is_empty)
        && let Some(tokens) = keys.remove("additional_special_tokens")
    {
        keys.insert("extra_special_tokens".to_owned(), tokens);
    }
}

/// Replaces the tokens of `keys` by those of `special_tokens_map.json`; `extra_special_tokens` are appended.
fn merge_special_tokens_map(keys: &mut Map<String, Value>, specials: Value) {
    let Value::Object(specials) = specials else { return };
    for (key, value) in specials {
        match (keys.get_mut(&key), value) {
            (Some(Value::Array(tokens)), Value::Array(more)) if key == "extra_special_tokens" => {
                tokens.extend(more);
            }
            (_, value) => {
                keys.insert(key, value);
            }
        }
    }
}

/// Special tokens with names: those of [`NAMES`], other keys that end in `_token`, and `extra_special_tokens` that is
/// an object.
fn named_tokens(keys: &Map<String, Value>) -> Vec<(String, AddedToken)> {
    let others = keys.iter().filter(|(key, _)| key.ends_with("_token") && !NAMES.contains(&key.as_str()));
    let extra = keys.get("extra_special_tokens").and_then(Value::as_object);
    let standard = NAMES.iter().filter_map(|&name| Some((name, keys.get(name)?)));
    let others = others.chain(extra.into_iter().flatten()).map(|(key, value)| (key.as_str(), value));
    standard
        .chain(others)
        .filter_map(|(name, value)| Some((name.to_owned(), parse_token(value, true)?)))
        .collect()
}

fn extra_tokens(keys: &Map<String, Value>) -> Vec<AddedToken> {
    let tokens = keys.get("extra_special_tokens").and_then(Value::as_array);
    tokens.into_iter().flatten().filter_map(|value| parse_token(value, true)).collect()
}

/// A token that is a text, or an object with the key `content` and flags; `special` is the default of that flag.
fn parse_token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
    let content = value.as_str().or_else(|| value["content"].as_str())?;
    let token = AddedToken::from(content, flag("special", special));
    let normalized = flag("normalized", token.normalized);
    Some(
        token
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(normalized),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::Tokenizer;
    use crate::data::fixture::{self, BOS, EOS, PAD, TURN};

    /// Loads the small tokenizer with `files` beside it.
    fn load(files: &[(&str, Value)]) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(folder.path(), "tokenizer.json", &fixture::tokenizer_json());
        for (name, content) in files {
            fixture::write(folder.path(), name, content);
        }
        fixture::load(folder.path()).unwrap()
    }

    fn flagged(content: &str, flags: &Value) -> Value {
        let mut token = fixture::added_token(&Value::Null, content);
        token.as_object_mut().unwrap().extend(flags.as_object().cloned().unwrap_or_default());
        token
    }

    #[test]
    fn declared_tokens_keep_their_flags() {
        let tokens = json!({
            "262": flagged("<l>", &json!({"lstrip": true})),
            "263": flagged("<r>", &json!({"rstrip": true})),
            "264": flagged("word", &json!({"single_word": true, "special": false})),
            "259": flagged("<|turn|>", &json!({"lstrip": true, "rstrip": true})),
        });
        let tokenizer = load(&[("tokenizer_config.json", json!({"added_tokens_decoder": tokens}))]);
        let ids = tokenizer.encode("a <l> <r> word words <|turn|> b", false).unwrap();
        let words = "words".bytes().map(u32::from);
        let expected: Vec<_> =
            [97, 262, 32, 263, 264, 32].into_iter().chain(words).chain([TURN, 98]).collect();
        assert_eq!(ids, expected);
        assert_eq!(tokenizer.decode(&[262, 264, TURN, 97], true).unwrap(), "worda");
        assert_eq!(tokenizer.vocab_size(), 265);
    }

    /// The expected ids are those of transformers 5.23.
    #[test]
    fn the_first_file_that_declares_tokens_decides() {
        let config = |keys: Value| ("tokenizer_config.json", keys);
        let map = |keys: Value| ("special_tokens_map.json", keys);
        let [a, b, turn] = [262, 263, TURN];
        for (files, text, ids) in [
            (vec![config(json!({"additional_special_tokens": ["<a>", "<b>", "<a>"]}))], "<a><b>", vec![a, b]),
            (
                vec![config(json!({"extra_special_tokens": ["<b>"], "additional_special_tokens": ["<a>"]}))],
                "<b>",
                vec![a],
            ),
            (
                vec![config(json!({"extra_special_tokens": {"image_token": "<a>"}, "audio_token": "<b>"}))],
                "<b><a>",
                vec![a, b],
            ),
            (
                vec![
                    config(json!({"extra_special_tokens": ["<a>"]})),
                    map(
                        json!({"extra_special_tokens": ["<b>", "<a>"], "additional_special_tokens": ["<c>"]}),
                    ),
                ],
                "<a><b>",
                vec![a, b],
            ),
            (
                vec![
                    config(json!({"additional_special_tokens": ["<a>"]})),
                    ("added_tokens.json", json!({"<a>": 263, "bb": 262, "<s>": 257})),
                ],
                "<a>bb<s>",
                vec![b, a, BOS],
            ),
            (
                vec![
                    config(json!({"unk_token": "<b>", "mask_token": "<|turn|>"})),
                    map(json!({"unk_token": {"content": "<a>", "lstrip": true}})),
                ],
                " <a><|turn|>",
                vec![a, turn],
            ),
        ] {
            let tokenizer = load(&files);
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{files:?}");
        }
    }

    #[test]
    fn the_map_counts_unless_the_configuration_declares_tokens() {
        let map =
            ("special_tokens_map.json", json!({"eos_token": "<|turn|>", "pad_token": {"content": "<pad>"}}));
        let mut config = json!({"eos_token": "</s>"});
        let tokenizer = load(&[("tokenizer_config.json", config.clone()), map.clone()]);
        assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id(300)), (&[TURN][..], PAD));
        config["added_tokens_decoder"] = json!({"258": flagged("</s>", &json!({}))});
        let tokenizer = load(&[("tokenizer_config.json", config), map]);
        assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id(300)), (&[EOS][..], EOS));
    }

    #[test]
    fn named_tokens_are_special_wherever_they_are() {
        let config = json!({"eos_token": "<end>", "bos_token": "ĠA", "added_tokens_decoder":
            {"262": flagged("<end>", &json!({"special": false}))}});
        let tokenizer = load(&[("tokenizer_config.json", config)]);
        assert_eq!(tokenizer.eos_ids(), [262]);
        assert_eq!(tokenizer.encode("ĠA<end>", false).unwrap(), [fixture::SPACE_A, 262]);
        assert_eq!(tokenizer.decode(&[97, 262], true).unwrap(), "a");
    }
}
