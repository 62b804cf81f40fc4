//! The tokenizer of a checkpoint, its special tokens and its chat template.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::Encoding;

use super::bounded::BoundedTokenizer;
use super::contents::Contents;
use super::files::file_error;
use super::special_tokens::SpecialTokens;
use super::{growth, llama};
use crate::data::chat::{ChatTemplate, Renderer};
use crate::{Error, Result, files};

/// Special tokens that chat templates see.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Encodes text as token ids and decodes them.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<BoundedTokenizer>,
    template: Option<ChatTemplate>,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and, if present, `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
    /// `generation_config.json`, `config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the missing or invalid file; [`Error::Io`].
    pub fn from_folder(folder: &Path, renderer: &Arc<dyn Renderer>) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        files::guard(&file, Error::ModelLoading, || Self::read(&Contents::of_folder(folder)?, renderer))
    }

    /// Loads a tokenizer from the contents of its files.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the place of what is invalid.
    pub fn from_contents(contents: &Contents, renderer: &Arc<dyn Renderer>) -> Result<Self> {
        files::guard(&contents.file, Error::ModelLoading, || Self::read(contents, renderer))
    }

    fn read(contents: &Contents, renderer: &Arc<dyn Renderer>) -> Result<Self> {
        let Contents { folder, file, tokenizer: json, config, generation, model } = contents;
        let growth = growth::check(json).map_err(|e| file_error(file, e))?;
        let mut inner: tokenizers::Tokenizer = json.parse().map_err(|e| file_error(file, e))?;
        // Truncation and padding are done per batch; truncating here would hide long rows.
        inner.with_padding(None).with_truncation(None).map_err(|e| file_error(file, e))?;

        if llama::is_llama(&inner, json, config, model) {
            llama::set_pipeline(&mut inner, config).map_err(|e| file_error(file, e))?;
        }
        let specials = SpecialTokens::read(folder, config, &inner)?;
        specials.add_to(&mut inner)?;
        let id_of = |name: &str| specials.text_of(name).and_then(|text| inner.token_to_id(text));
        let (bos, pad) = (id_of("bos_token"), id_of("pad_token"));
        let mut eos: Vec<u32> = id_of("eos_token").into_iter().collect();
        for ids in [generation, model] {
            for id in token_ids(&ids["eos_token_id"]) {
                // Configurations of small or merged models contain ids of other vocabularies.
                if !eos.contains(&id) && inner.id_to_token(id).is_some() {
                    eos.push(id);
                }
            }
        }
        let variable = |name: &&str| Some(((*name).to_owned(), Value::from(specials.text_of(name)?)));
        let special_tokens = SPECIAL_TOKENS.iter().filter_map(variable).collect();
        let template = ChatTemplate::read(folder, config, special_tokens, renderer)?;
        let inner = Arc::new(BoundedTokenizer::new(inner, Arc::from(file.as_path()), growth));
        Ok(Self { inner, template, bos, eos, pad })
    }

    /// Encodes `text`. `add_special_tokens` adds the special tokens that the model expects around a text, such as
    /// BOS; special tokens written out in `text` are always recognized.
    ///
    /// # Errors
    /// [`Error::Dataset`] if the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
    }

    /// Encodes `text` with the special tokens that the model expects around it, but for those that `text` begins or
    /// ends with itself.
    ///
    /// # Errors
    /// See [`Self::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true)?;
        Ok(encoding.get_ids()[without_repeated_specials(&encoding)].to_vec())
    }

    /// Encodes `text` like [`Self::encode_text`], but without the EOS token that some tokenizers append, because a
    /// completion follows.
    ///
    /// # Errors
    /// See [`Self::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true)?;
        let Range { start, end } = without_repeated_specials(&encoding);
        let (ids, special_tokens_mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let is_end = |index: usize| special_tokens_mask[index] == 1 && self.eos.contains(&ids[index]);
        // The first token is kept: where one token is both BOS and EOS, it is a BOS there.
        let end =
            (start + 1..end).rev().find(|&index| !is_end(index)).map_or(end.min(start + 1), |last| last + 1);
        Ok(ids[start..end].to_vec())
    }

    /// Encodes `text` without adding special tokens. Also returns the bytes of `text` that each token stands for.
    pub(in crate::data) fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, false)?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// Decodes `ids`; ids that are not in the vocabulary are skipped.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if the decoder of the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens)
    }

    /// Ids of the EOS tokens. The first one is appended to training examples.
    #[must_use]
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Id of the BOS token.
    #[must_use]
    pub const fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// Id of the padding token.
    #[must_use]
    pub const fn pad_token_id(&self) -> Option<u32> {
        self.pad
    }

    /// Id of the padding token, or else of the first EOS token, or 0: the first of these below `vocab_size`, the number
    /// of embeddings of the model. The loss ignores padding, so that any token serves.
    #[must_use]
    pub fn pad_id(&self, vocab_size: u32) -> u32 {
        self.pad.into_iter().chain(self.eos.iter().copied()).find(|&id| id < vocab_size).unwrap_or(0)
    }

    /// Size of the vocabulary including added tokens; the embedding of the model may be larger.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// Identifies the vocabulary: token ids mean the same tokens for tokenizers of one fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Arc<str> {
        self.inner.fingerprint()
    }

    /// The chat template, if the checkpoint has one.
    #[must_use]
    pub const fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// This tokenizer with options of the chat template, such as `enable_thinking`, for all conversations.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no chat template, or if an option is not one that can be set.
    pub fn with_template_options(&self, options: &Map<String, Value>) -> Result<Self> {
        let mut tokenizer = self.clone();
        match &mut tokenizer.template {
            Some(template) => template.add_options(options)?,
            None if options.is_empty() => {}
            None => {
                let message = "chat_template_kwargs is set, but the tokenizer has no chat template";
                return Err(Error::Config(message.to_owned()));
            }
        }
        Ok(tokenizer)
    }
}

/// The ids of `eos_token_id`, which is a number or a list of numbers.
fn token_ids(value: &Value) -> impl Iterator<Item = u32> {
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    values.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok())
}

/// The tokens of `encoding` without the special tokens that the tokenizer put around a text which has them itself.
fn without_repeated_specials(encoding: &Encoding) -> Range<usize> {
    let (ids, special_tokens_mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let is_added = |&index: &usize| special_tokens_mask[index] == 1;
    let start = (0..ids.len()).take_while(is_added).count();
    let end = ids.len() - (start..ids.len()).rev().take_while(is_added).count();
    let (before, text, after) = (&ids[..start], &ids[start..end], &ids[end..]);
    let start = if text.starts_with(before) { start } else { 0 };
    let end = if text.ends_with(after) { end } else { ids.len() };
    start..end
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::data::fixture::{self, BOS, END, EOS, PAD, TURN};

    fn refused(folder: &Path) -> String {
        let error = fixture::load(folder).unwrap_err();
        assert!(matches!(error, Error::ModelLoading(_)), "{error:?}");
        error.to_string()
    }

    #[test]
    fn text_goes_to_ids_and_back() {
        let tokenizer = fixture::tokenizer(None);
        assert_eq!(tokenizer.encode("h", true).unwrap(), [BOS, 104]);
        assert_eq!(tokenizer.encode("é</s>", false).unwrap(), [0xc3, 0xa9, EOS]);
        assert_eq!(tokenizer.decode(&[BOS, 0xc3, 0xa9, EOS, 9999], true).unwrap(), "é");
        assert_eq!(tokenizer.decode(&[BOS, 104], false).unwrap(), "<s>h");
        assert_eq!(tokenizer.vocab_size(), 262);
        assert_eq!(
            (tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id(300)),
            (Some(BOS), &[EOS][..], EOS)
        );
    }

    #[test]
    fn offsets_are_bytes_of_the_text() {
        let (ids, offsets) = fixture::tokenizer(None).encode_with_offsets("é A<|end|>").unwrap();
        assert_eq!(ids, [0xc3, 0xa9, fixture::SPACE_A, END]);
        assert_eq!(offsets, [0..2, 0..2, 2..4, 4..11]);
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_ignored() {
        let folder = fixture::folder(None);
        let mut json = fixture::tokenizer_json();
        json["truncation"] =
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": PAD, "pad_type_id": 0, "pad_token": "<pad>"});
        fixture::write(folder.path(), "tokenizer.json", &json);
        let tokenizer = fixture::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("abc", true).unwrap(), [BOS, 97, 98, 99]);
    }

    #[test]
    fn a_prompt_loses_the_end_a_tokenizer_adds_but_not_its_beginning() {
        let folder = fixture::folder(None);
        let mut json = fixture::tokenizer_json();
        let single = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}]);
        json["post_processor"]["single"] = single;
        json["post_processor"]["special_tokens"]["</s>"] =
            json!({"id": "</s>", "ids": [EOS], "tokens": ["</s>"]});
        fixture::write(folder.path(), "tokenizer.json", &json);
        let tokenizer = fixture::load(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("a", true).unwrap(), [BOS, 97, EOS]);
        assert_eq!(tokenizer.encode_prompt("a").unwrap(), [BOS, 97]);
        assert_eq!(tokenizer.encode_prompt("a</s>").unwrap(), [BOS, 97, EOS]);
        assert_eq!(tokenizer.encode_prompt("").unwrap(), [BOS]);
    }

    #[test]
    fn special_tokens_that_a_text_has_are_not_repeated() {
        let tokenizer = fixture::tokenizer(None);
        for (text, ids) in [
            ("<s>h", &[BOS, 104][..]),
            ("<s><s>h", &[BOS, BOS, 104]),
            ("<s>", &[BOS]),
            ("h<s>", &[BOS, 104, BOS]),
            ("", &[BOS]),
        ] {
            assert_eq!(tokenizer.encode_text(text).unwrap(), ids, "{text}");
            assert_eq!(tokenizer.encode_prompt(text).unwrap(), ids, "{text}");
        }
        assert_eq!(tokenizer.encode("<s>h", true).unwrap(), [BOS, BOS, 104]);
    }

    #[test]
    fn empty_special_tokens_are_none() {
        let folder = fixture::folder(None);
        let config =
            json!({"bos_token": "", "eos_token": "", "pad_token": "", "chat_template": "{{ bos_token }}a"});
        fixture::write(folder.path(), "tokenizer_config.json", &config);
        let tokenizer = fixture::load(folder.path()).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.vocab_size()), (None, &[][..], 262));
    }

    #[test]
    fn padding_is_a_token_that_the_model_has() {
        let folder = fixture::folder(None);
        for (pad_token, ids) in [("<pad>", [PAD, EOS]), ("[PAD]", [262, EOS])] {
            let config = json!({"eos_token": "</s>", "pad_token": pad_token});
            fixture::write(folder.path(), "tokenizer_config.json", &config);
            let tokenizer = fixture::load(folder.path()).unwrap();
            assert_eq!([tokenizer.pad_id(263), tokenizer.pad_id(PAD)], ids);
            assert_eq!(tokenizer.pad_id(EOS), 0);
        }
    }

    #[test]
    fn ends_of_text_come_from_all_configs_once() {
        let folder = fixture::folder(None);
        fixture::write(
            folder.path(),
            "generation_config.json",
            &json!({"eos_token_id": [END, EOS, 100_000]}),
        );
        fixture::write(folder.path(), "config.json", &json!({"eos_token_id": TURN}));
        let tokenizer = fixture::load(folder.path()).unwrap();
        assert_eq!(tokenizer.eos_ids(), [EOS, END, TURN]);
    }

    #[test]
    fn the_tokenizer_file_alone_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        fixture::write(folder.path(), "tokenizer.json", &fixture::tokenizer_json());
        let tokenizer = fixture::load(folder.path()).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id(300)), (None, &[][..], 0));
        assert!(tokenizer.chat_template().is_none());
        fixture::write(folder.path(), "special_tokens_map.json", &json!({"pad_token": "<pad>"}));
        assert_eq!(fixture::load(folder.path()).unwrap().pad_id(300), PAD);
    }

    #[test]
    fn templates_are_found_where_checkpoints_keep_them() {
        let render = |folder: &Path, tools: Option<&Value>| {
            let tokenizer = fixture::load(folder).unwrap();
            tokenizer.chat_template().unwrap().render(&[], tools, false).unwrap()
        };
        let folder = fixture::folder(Some("{{ bos_token }}config{{ eos_token }}"));
        assert_eq!(render(folder.path(), None), "<s>config</s>");
        let named =
            json!([{"name": "tool_use", "template": "with tools"}, {"name": "default", "template": "plain"}]);
        fixture::write(folder.path(), "tokenizer_config.json", &json!({"chat_template": named}));
        assert_eq!(render(folder.path(), None), "plain");
        assert_eq!(render(folder.path(), Some(&json!([]))), "with tools");
        fs::write(folder.path().join("chat_template.jinja"), "own file").unwrap();
        assert_eq!(render(folder.path(), None), "own file");
        assert_eq!(render(folder.path(), Some(&json!([]))), "own file");
        fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        fs::write(folder.path().join("additional_chat_templates/tool_use.jinja"), "own tools").unwrap();
        assert_eq!(render(folder.path(), None), "own file");
        assert_eq!(render(folder.path(), Some(&json!([]))), "own tools");
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        assert!(refused(folder.path()).contains("no chat template is named \"default\""));
    }

    #[test]
    fn broken_folders_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let named = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(
            refused(folder.path()),
            format!(
                "{}: the file is missing; a model folder needs the tokenizer in this format",
                named("tokenizer.json")
            )
        );
        fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        assert!(refused(folder.path()).starts_with(&named("tokenizer.json")));
        fixture::write(folder.path(), "tokenizer.json", &fixture::tokenizer_json());

        for (name, content, reason) in [
            ("tokenizer_config.json", "[1", "EOF while parsing"),
            (
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"one": "<x>"}}"#,
                r#"added_tokens_decoder has "one": "<x>", expected an id and a token"#,
            ),
            (
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"300": {"content": "<x>"}}}"#,
                r#"the token "<x>" has the id 300, but it is not in tokenizer.json, where the next free id is 262"#,
            ),
            ("added_tokens.json", r#"{"<x>": "262"}"#, r#"the id of "<x>" is not a number"#),
            ("tokenizer_config.json", r#"{"chat_template": []}"#, r#"no chat template is named "default""#),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
            let error = refused(folder.path());
            assert!(error.starts_with(&named(name)) && error.contains(reason), "{error}");
            fs::remove_file(folder.path().join(name)).unwrap();
        }
    }
}
