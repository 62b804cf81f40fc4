//! The tokenizer of a file, as the files that transformers keeps it in.
//!
//! | `tokenizer.ggml.model` | tokenizer |
//! |---|---|
//! | `gpt2` | byte-level BPE with `tokenizer.ggml.merges`; `tokenizer.ggml.pre` names its rule of words |
//! | `llama` | `SentencePiece`'s BPE: merges follow from `tokenizer.ggml.scores`, unknown characters are bytes |
//!
//! `tokenizer.ggml.token_type` says which tokens are found in a text before it is cut into words: special ones (3) and
//! those of the user (4).

mod byte_level;
mod sentencepiece;
mod specials;

use serde_json::{Map, Value, json};

use super::{Metadata, Reader, Strings};
use crate::{Error, Result};
use specials::Specials;

pub use byte_level::rule_name;

/// Largest numbers of tokens and of merges; real ones have a quarter and half a million.
const MAX_TOKENS: usize = 1 << 20;
const MAX_MERGES: usize = 1 << 21;

/// Types of tokens.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const NORMAL: u64 = 1;

/// Contents of the files of a tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Value,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// `generation_config.json`.
    pub generation: Value,
}

impl TokenizerFiles {
    /// The files with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Value); 3] {
        [
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.config),
            ("generation_config.json", &self.generation),
        ]
    }
}

/// The vocabulary of a file.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: &'a Strings,
    /// Type of each token.
    types: Vec<u64>,
}

/// Reads the tokenizer of a file.
///
/// # Errors
/// A tokenizer that is not supported; keys that are missing or of another type.
pub fn tokenizer(reader: &Reader) -> Result<TokenizerFiles> {
    files(reader.metadata()).map_err(|error| reader.error(&error))
}

fn files(metadata: &Metadata) -> Result<TokenizerFiles> {
    let vocabulary = Vocabulary::read(metadata)?;
    let specials = Specials::read(&vocabulary)?;
    let model = metadata.string("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
    let (mut tokenizer, adds_bos) = match model {
        "gpt2" => byte_level::pipeline(&vocabulary)?,
        "llama" => sentencepiece::pipeline(&vocabulary, &specials)?,
        other => {
            return Err(Error::ModelLoading(format!(
                "\"tokenizer.ggml.model\" is \"{other}\", expected \"gpt2\" or \"llama\""
            )));
        }
    };
    tokenizer["version"] = "1.0".into();
    tokenizer["added_tokens"] = vocabulary.added(metadata);
    tokenizer["post_processor"] = specials.post_processor(metadata, adds_bos)?;
    Ok(TokenizerFiles {
        tokenizer,
        config: tokenizer_config(metadata, &specials)?,
        generation: specials.generation_config(),
    })
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.strings(key)?.ok_or_else(|| missing(key))?;
        if tokens.len() > MAX_TOKENS {
            return Err(Error::ModelLoading(format!(
                "\"{key}\" has {} tokens, expected at most {MAX_TOKENS}",
                tokens.len()
            )));
        }
        let key = "tokenizer.ggml.token_type";
        let types = metadata.counts(key)?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(Error::ModelLoading(format!(
                "\"{key}\" has {} entries for {} tokens",
                types.len(),
                tokens.len()
            )));
        }
        Ok(Self { metadata, tokens, types })
    }

    /// `vocab` of the model of a `tokenizer.json`.
    fn ids(&self) -> Value {
        let id = |(id, token): (usize, &str)| (token.to_owned(), Value::from(id));
        self.tokens.iter().enumerate().map(id).collect::<Map<_, _>>().into()
    }

    /// `added_tokens` of a `tokenizer.json`.
    fn added(&self, metadata: &Metadata) -> Value {
        // What Phi-3 leaves out after its special tokens is not in the file; llama.cpp does it by the name too.
        let strips = metadata.get("phi3.block_count").is_some()
            && matches!(metadata.string("tokenizer.ggml.model"), Ok(Some("llama")));
        let is_bare = |token: &str| matches!(token, "<unk>" | "<s>" | "<|endoftext|>");
        let token = |(id, (token, &kind)): (usize, (&str, &u64))| {
            let is_special = matches!(kind, UNKNOWN | CONTROL);
            (is_special || kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": strips && is_special && !is_bare(token),
                    "normalized": false, "special": is_special,
                })
            })
        };
        // An empty token would be found everywhere.
        let tokens =
            self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (token, _))| !token.is_empty());
        tokens.filter_map(token).collect()
    }
}

fn tokenizer_config(metadata: &Metadata, specials: &Specials) -> Result<Value> {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    specials.name(&mut config);
    let Some(default) = metadata.string("tokenizer.chat_template")? else { return Ok(config) };
    let names = metadata.strings("tokenizer.chat_templates")?;
    let mut named = vec![json!({"name": "default", "template": default})];
    for name in names.into_iter().flat_map(Strings::iter) {
        if let Some(template) = metadata.string(&format!("tokenizer.chat_template.{name}"))? {
            named.push(json!({"name": name, "template": template}));
        }
    }
    config["chat_template"] = if named.len() == 1 { default.into() } else { named.into() };
    Ok(config)
}

fn missing(key: &str) -> Error {
    Error::ModelLoading(format!("\"{key}\" is missing"))
}
