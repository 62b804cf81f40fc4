//! Tokens with a role.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{CONTROL, Vocabulary};
use crate::io::gguf::Metadata;
use crate::{Error, Result};

/// Names of the roles here, and in `tokenizer_config.json`.
const ROLES: [(&str, &str); 4] =
    [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];

/// Further keys of tokens that end a text.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Special tokens that end a turn by their name, where a file does not say so, as in llama.cpp.
const END_NAMES: [&str; 6] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];

/// Ids and texts of the tokens with a role.
pub(super) struct Specials {
    /// By the name in `tokenizer_config.json`.
    roles: Map<String, Value>,
    ids: Map<String, Value>,
    ends: Vec<u64>,
}

impl Specials {
    /// Reads the roles of the tokens of `vocabulary`.
    ///
    /// # Errors
    /// An id that no token has, by key.
    pub(super) fn read(vocabulary: &Vocabulary) -> Result<Self> {
        let (mut roles, mut ids, mut ends) = (Map::new(), Map::new(), Vec::new());
        let find = |key: &str| -> Result<Option<(u64, &str)>> {
            let Some(id) = vocabulary.metadata.count(key)? else { return Ok(None) };
            match usize::try_from(id).ok().and_then(|id| vocabulary.tokens.get(id)) {
                Some(token) => Ok(Some((id, token))),
                // Files of models without such a token say so in this way.
                None if id == u64::from(u32::MAX) => Ok(None),
                None => Err(Error::ModelLoading(format!(
                    "\"{key}\" is {id}, but there are {} tokens",
                    vocabulary.tokens.len()
                ))),
            }
        };
        for (role, name) in ROLES {
            if let Some((id, token)) = find(&format!("tokenizer.ggml.{role}_token_id"))? {
                roles.insert(name.to_owned(), token.into());
                ids.insert(name.to_owned(), id.into());
                if role == "eos" {
                    ends.push(id);
                }
            }
        }
        for key in ENDS {
            ends.extend(find(key)?.map(|(id, _)| id));
        }
        let named = vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
        let named = named.filter(|(_, (token, kind))| **kind == CONTROL && END_NAMES.contains(token));
        ends.extend(named.map(|(id, _)| id as u64));
        let mut seen = BTreeSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(Self { roles, ids, ends })
    }

    /// The text of the token with the role `name` of `tokenizer_config.json`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.roles.get(name)?.as_str()
    }

    /// Names the tokens in a `tokenizer_config.json`.
    pub(super) fn name(&self, config: &mut Value) {
        for (name, token) in &self.roles {
            config[name.as_str()] = token.clone();
        }
    }

    /// A `generation_config.json`.
    pub(super) fn generation_config(&self) -> Value {
        let mut config = json!({ "eos_token_id": self.ends });
        for (name, key) in [("bos_token", "bos_token_id"), ("pad_token", "pad_token_id")] {
            if let Some(id) = self.ids.get(name) {
                config[key] = id.clone();
            }
        }
        config
    }

    /// What is put around a text. `adds_bos` is what the kind of tokenizer does if the file does not say.
    ///
    /// # Errors
    /// Flags of another type.
    pub(super) fn post_processor(&self, metadata: &Metadata, adds_bos: bool) -> Result<Value> {
        let adds_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let adds_eos = metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let bos = self.text("bos_token").filter(|_| adds_bos);
        let eos = self.text("eos_token").filter(|_| adds_eos);
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let around = |name: &str| -> Vec<Value> {
            let parts = [bos.map(special), Some(sequence(name)), eos.map(special)];
            parts.into_iter().flatten().collect()
        };
        let named = [("bos_token", bos), ("eos_token", eos)];
        let tokens: Map<String, Value> = named
            .into_iter()
            .filter_map(|(role, token)| {
                let token = token?;
                Some((
                    token.to_owned(),
                    json!({"id": token, "ids": [self.ids.get(role)?], "tokens": [token]}),
                ))
            })
            .collect();
        let pair = [around("A"), around("B")].concat();
        Ok(json!({
            "type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": tokens,
        }))
    }
}
