//! The tokenizer of an image–text model.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::super::bounded::BoundedTokenizer;
use super::super::files::{file_error, read_json};
use super::super::growth;
use super::byte_bpe;
use super::cleaning::Cleaning;
use crate::{Error, Result, files};

/// Tokens that may begin and end a text, by family.
const BEGINNINGS: [&str; 2] = ["<|startoftext|>", "<start_of_text>"];
const ENDS: [&str; 4] = ["<|endoftext|>", "<end_of_text>", "<eos>", "</s>"];

/// Encodes texts as rows of one length.
#[derive(Debug, Clone)]
pub struct CaptionTokenizer {
    inner: Arc<BoundedTokenizer>,
    cleaning: Cleaning,
    /// Length of a row.
    context: usize,
    bos: Option<u32>,
    eos: u32,
    pad: u32,
    pads_left: bool,
}

impl CaptionTokenizer {
    /// Loads `tokenizer.json`, or else CLIP's `vocab.json` and `merges.txt`, for a model that reads `context` tokens.
    /// `is_open_clip` tells the format of the folder.
    ///
    /// What belongs to which family is told by the tokenizer itself, since its class has had several names: `SigLIP` has a
    /// unigram model, `SigLIP` 2 one with a fallback to bytes.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the missing or invalid file.
    pub fn from_folder(folder: &Path, context: usize, is_open_clip: bool) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        files::guard(&file, Error::ModelLoading, || Self::read(folder, &file, context, is_open_clip))
    }

    fn read(folder: &Path, file: &Path, context: usize, is_open_clip: bool) -> Result<Self> {
        let from_parts = !file.is_file() && byte_bpe::is_there(folder);
        let text = if from_parts {
            byte_bpe::tokenizer_json(folder)?
        } else if file.is_file() {
            files::read_to_string(file, files::MAX_JSON).map_err(|error| file_error(file, error))?
        } else {
            return Err(file_error(
                file,
                "the file is missing; the tokenizer of an image–text model is this file, or vocab.json and merges.txt",
            ));
        };
        let growth = growth::check(&text).map_err(|error| file_error(file, error))?;
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(|error| file_error(file, error))?;
        inner.with_padding(None).with_truncation(None).map_err(|error| file_error(file, error))?;
        let json: Value = serde_json::from_str(&text).map_err(|error| file_error(file, error))?;
        let model = &json["model"];
        let cleaning = if model["type"] == "Unigram" {
            Cleaning::Canonical
        } else if model["byte_fallback"] == true {
            Cleaning::LowerCase
        } else if is_open_clip || from_parts {
            Cleaning::OpenClip
        } else {
            Cleaning::None
        };
        let id = |names: &[&str]| names.iter().find_map(|name| inner.token_to_id(name));
        let eos = id(&ENDS).ok_or_else(|| {
            file_error(file, format!("none of the tokens that end a text is there: {}", ENDS.join(", ")))
        })?;
        let bos = id(&BEGINNINGS);
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let map = read_json(&folder.join("special_tokens_map.json"))?;
        let named = [&config, &map].into_iter().find_map(|json| content(&json["pad_token"]));
        let pad = match named {
            // In open_clip rows are filled with zeros.
            _ if is_open_clip => 0,
            Some(token) => inner.token_to_id(token).unwrap_or(eos),
            None => id(&["<pad>"]).unwrap_or(eos),
        };
        let specials = 1 + usize::from(bos.is_some());
        if context < specials {
            return Err(file_error(file, format!("a context of {context} tokens holds no text")));
        }
        Ok(Self {
            inner: Arc::new(BoundedTokenizer::new(inner, Arc::from(file), growth)),
            cleaning,
            context,
            bos,
            eos,
            pad,
            pads_left: config["padding_side"] == "left",
        })
    }

    /// Length of a row.
    #[must_use]
    pub const fn context(&self) -> usize {
        self.context
    }

    /// Encodes `text` as a row: its tokens between those that begin and end a text, then padding. With `truncate`, a
    /// longer text loses its last tokens.
    ///
    /// # Errors
    /// [`Error::Dataset`] for a text that is too long, with its length.
    pub fn encode(&self, text: &str, truncate: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(&self.cleaning.apply(text), false)?;
        let mut row: Vec<u32> = self.bos.into_iter().chain(encoding.get_ids().iter().copied()).collect();
        row.push(self.eos);
        if row.len() > self.context {
            if !truncate {
                let start: String = text.chars().take(40).collect();
                return Err(Error::Dataset(format!(
                    "the text \"{start}…\" has {} tokens, more than {}, the context of the model; shorten it, or pass \
                     truncate=True",
                    row.len(),
                    self.context
                )));
            }
            row.truncate(self.context);
            row[self.context - 1] = self.eos;
        }
        let missing = self.context - row.len();
        if self.pads_left {
            row.splice(0..0, std::iter::repeat_n(self.pad, missing));
        } else {
            row.resize(self.context, self.pad);
        }
        Ok(row)
    }

    /// Encodes `texts` as rows of one length, row-major.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_rows<T: AsRef<str>>(&self, texts: &[T], truncate: bool) -> Result<Vec<u32>> {
        let mut rows = Vec::with_capacity(texts.len() * self.context);
        for text in texts {
            rows.extend(self.encode(text.as_ref(), truncate)?);
        }
        Ok(rows)
    }
}

/// The text of a special token, which may be an object.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}
