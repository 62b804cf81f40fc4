//! A tokenizer of a file that nobody vouches for: texts that it would blow up are refused, and where the library panics,
//! its file is named.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokenizers::{Encoding, Tokenizer};

use super::files::file_error;
use super::growth::{Growth, MAX_TEXT};
use crate::rng::digest;
use crate::{Error, Result, files};

/// Encodes and decodes.
#[derive(Debug)]
pub(super) struct BoundedTokenizer {
    inner: Tokenizer,
    file: Arc<Path>,
    growth: Growth,
    fingerprint: OnceLock<Arc<str>>,
}

impl BoundedTokenizer {
    /// `inner`, read from `file`, with the `growth` of its normalizers.
    pub(super) const fn new(inner: Tokenizer, file: Arc<Path>, growth: Growth) -> Self {
        Self { inner, file, growth, fingerprint: OnceLock::new() }
    }

    /// The tokenizer of the library, for questions about its vocabulary: texts are not bounded there.
    pub(super) const fn unbounded(&self) -> &Tokenizer {
        &self.inner
    }

    /// Encodes `text` with offsets in bytes.
    ///
    /// # Errors
    /// [`Error::Dataset`] if the text cannot be encoded or would become too long; a panic of the library.
    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        self.bounded(text, || self.inner.encode(text, add_special_tokens))
    }

    /// Encodes `text` without offsets.
    ///
    /// # Errors
    /// See [`Self::encode`].
    pub(super) fn encode_fast(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        self.bounded(text, || self.inner.encode_fast(text, add_special_tokens))
    }

    /// Decodes `ids`.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if the decoder fails; a panic of the library.
    pub(super) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        files::guard(&self.file, Error::ModelLoading, || {
            let decoded = self.inner.decode(ids, skip_special_tokens);
            decoded.map_err(|error| file_error(&self.file, format!("cannot decode these tokens: {error}")))
        })
    }

    /// Number of tokens, added ones included.
    pub(super) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Identifies all tokens with their ids.
    pub(super) fn fingerprint(&self) -> Arc<str> {
        let compute = || {
            let mut tokens: Vec<(u32, String)> =
                self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
            tokens.sort_unstable();
            let numbers = tokens.iter().flat_map(|(id, token)| {
                let bytes = token.bytes().map(u64::from);
                [u64::from(*id), token.len() as u64].into_iter().chain(bytes)
            });
            format!("{:016x}", digest(numbers)).into()
        };
        Arc::clone(self.fingerprint.get_or_init(compute))
    }

    fn bounded(&self, text: &str, encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Encoding> {
        if self.growth.of(text.len()) > MAX_TEXT {
            return Err(Error::Dataset(format!(
                "the text of {} bytes may become longer than {MAX_TEXT} by the normalizers of {}; divide it",
                text.len(),
                self.file.display()
            )));
        }
        files::guard(&self.file, Error::ModelLoading, || {
            encode().map_err(|error| Error::Dataset(format!("the text cannot be tokenised: {error}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::data::fixture;

    #[test]
    fn a_text_that_would_become_too_long_is_refused() {
        let folder = fixture::folder(None);
        let mut json = fixture::tokenizer_json();
        let content = "a".repeat(1 << 20);
        json["normalizer"] = json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
        fixture::write(folder.path(), "tokenizer.json", &json);
        let tokenizer = fixture::load(folder.path()).unwrap();
        let error = tokenizer.encode(&"a".repeat(300), false).unwrap_err().to_string();
        let start = "the text of 300 bytes may become longer than 268435456 by the normalizers of ";
        assert!(error.starts_with(start) && error.contains("tokenizer.json"), "{error}");
        assert!(tokenizer.encode("b", false).is_ok());
    }

    #[test]
    fn files_whose_pipelines_multiply_are_refused_by_name() {
        let folder = fixture::folder(None);
        let mut json = fixture::tokenizer_json();
        json["model"]["max_input_chars_per_word"] = json!(50_000);
        fixture::write(folder.path(), "tokenizer.json", &json);
        let error = fixture::load(folder.path()).unwrap_err().to_string();
        let file = folder.path().join("tokenizer.json").display().to_string();
        assert_eq!(
            error,
            format!("{file}: \"max_input_chars_per_word\" is 50000, expected at most 256; 100 is usual")
        );
    }
}
