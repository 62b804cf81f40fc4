//! Incremental decoding, for generation.

use super::tokenizer::Tokenizer;
use crate::Result;

/// Maximum number of tokens held back. A character has at most four bytes, so most of a text that is still incomplete
/// after this many tokens will not become one.
const MAX_PENDING_TOKENS: usize = 16;
/// Maximum number of tokens at the end that may be the beginning of a character.
const MAX_PARTIAL_TOKENS: usize = 3;

/// Decodes tokens as they arrive and returns complete characters only, because a byte-level token may hold a part
/// of one.
///
/// The concatenated pieces equal the decoded sequence. Each token is decoded together with the previous piece,
/// because decoders treat the start of a text specially.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    skip_special_tokens: bool,
    /// Tokens of the last returned piece, then those held back.
    ids: Vec<u32>,
    /// Number of `ids` whose text was returned.
    released: usize,
}

impl DecodeStream {
    /// An empty stream.
    #[must_use]
    pub const fn new(skip_special_tokens: bool) -> Self {
        Self { skip_special_tokens, ids: Vec::new(), released: 0 }
    }

    /// Adds the next token and returns the text that is complete with it, often empty.
    ///
    /// # Errors
    /// See [`Tokenizer::decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let pending = self.pending(tokenizer)?;
        let is_partial = pending.ends_with(char::REPLACEMENT_CHARACTER);
        if pending.is_empty() || is_partial && self.ids.len() - self.released < MAX_PENDING_TOKENS {
            return Ok(String::new());
        }
        let (complete, kept) =
            if is_partial { self.without_partial(tokenizer, pending)? } else { (pending, 0) };
        self.ids.drain(..self.released);
        self.released = self.ids.len() - kept;
        Ok(complete)
    }

    /// Takes the beginning of a character off the end of `pending`. Also returns the number of its tokens.
    fn without_partial(&self, tokenizer: &Tokenizer, pending: String) -> Result<(String, usize)> {
        let context = tokenizer.decode(&self.ids[..self.released], self.skip_special_tokens)?;
        for kept in 1..=MAX_PARTIAL_TOKENS {
            let (before, partial) = self.ids.split_at(self.ids.len() - kept);
            let before = tokenizer.decode(before, self.skip_special_tokens)?;
            let partial = tokenizer.decode(partial, self.skip_special_tokens)?;
            // Where a character is cut, its parts are more replacement characters than the whole.
            if let Some(complete) = before.get(context.len()..)
                && pending.strip_prefix(complete) == Some(partial.as_str())
            {
                return Ok((complete.to_owned(), kept));
            }
        }
        Ok((pending, 0))
    }

    /// Returns the remaining text. Incomplete characters are replaced by U+FFFD.
    ///
    /// # Errors
    /// See [`Tokenizer::decode`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let rest = self.pending(tokenizer)?;
        *self = Self::new(self.skip_special_tokens);
        Ok(rest)
    }

    fn pending(&self, tokenizer: &Tokenizer) -> Result<String> {
        let context = tokenizer.decode(&self.ids[..self.released], self.skip_special_tokens)?;
        let text = tokenizer.decode(&self.ids, self.skip_special_tokens)?;
        Ok(text.get(context.len()..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::data::fixture::{self, BOS, EOS};

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = DecodeStream::new(true);
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(tokenizer, id).unwrap()).collect();
        pieces.push(stream.finish(tokenizer).unwrap());
        pieces
    }

    /// Tokens as `SentencePiece` models have them: `▁` begins words, bytes are a fallback.
    fn sentencepiece() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let mut vocab = json!({"<unk>": 0, "▁Hi": 1, "▁you": 2, "!": 3});
        for (id, byte) in "é".bytes().enumerate() {
            vocab[format!("<0x{byte:02X}>")] = json!(id + 4);
        }
        let decoders = json!([
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]);
        let mut file = fixture::tokenizer_json();
        file["added_tokens"] = json!([]);
        file["pre_tokenizer"] = json!(null);
        file["post_processor"] = json!(null);
        file["decoder"] = json!({"type": "Sequence", "decoders": decoders});
        file["model"]["vocab"] = vocab;
        file["model"]["merges"] = json!([]);
        file["model"]["byte_fallback"] = json!(true);
        fixture::write(folder.path(), "tokenizer.json", &file);
        fixture::load(folder.path()).unwrap()
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = fixture::tokenizer(None);
        let ids = [BOS, 0x61, 0xf0, 0x9f, 0x98, 0x80, 0xc3, 0xa9, EOS];
        assert_eq!(pieces(&tokenizer, &ids), ["", "a", "", "", "", "😀", "", "é", "", ""]);
    }

    #[test]
    fn special_tokens_may_be_shown() {
        let tokenizer = fixture::tokenizer(None);
        let mut stream = DecodeStream::new(false);
        let pieces: Vec<_> = [BOS, 0x61, EOS].map(|id| stream.push(&tokenizer, id).unwrap()).to_vec();
        let whole = tokenizer.decode(&[BOS, 0x61, EOS], false).unwrap();
        assert_eq!(pieces.concat() + &stream.finish(&tokenizer).unwrap(), whole);
        assert!(whole.len() > 1);
    }

    #[test]
    fn what_never_became_a_character_is_released_in_the_end() {
        let tokenizer = fixture::tokenizer(None);
        assert_eq!(pieces(&tokenizer, &[0x61, 0xf0, 0x9f]), ["a", "", "", "\u{fffd}"]);
        let noise = pieces(&tokenizer, &[0xff; 40]);
        assert_eq!(noise.iter().filter(|piece| !piece.is_empty()).count(), 3);
        assert_eq!(noise.concat(), "\u{fffd}".repeat(40));
    }

    #[test]
    fn a_character_after_noise_is_not_cut() {
        let tokenizer = fixture::tokenizer(None);
        for noise in 12..17 {
            let ids: Vec<u32> =
                [0xff; 17][..noise].iter().copied().chain("😀é".bytes().map(u32::from)).collect();
            let expected = "\u{fffd}".repeat(noise) + "😀é";
            assert_eq!(pieces(&tokenizer, &ids).concat(), expected, "{noise}");
        }
    }

    #[test]
    fn spaces_between_words_survive_but_not_the_first() {
        let tokenizer = sentencepiece();
        assert_eq!(pieces(&tokenizer, &[1, 2, 4, 5, 3, 2]), ["Hi", " you", "", "é", "!", " you", ""]);
    }

    proptest! {
        #[test]
        fn pieces_joined_are_the_decoded_whole(ids in proptest::collection::vec(0_u32..262, 0..60)) {
            let tokenizer = fixture::tokenizer(None);
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids, true).unwrap());
        }
    }
}
