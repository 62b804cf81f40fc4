//! Tokens as bytes.

use tokenizers::DecoderWrapper;

use super::tokenizer::Tokenizer;

/// Marks a special token, whose name is not text. No UTF-8 text contains this byte.
const SPECIAL: u8 = 0xff;

impl Tokenizer {
    /// The bytes that each of the first `count` ids stands for within a text. Special tokens are `0xff` and their name;
    /// ids without token have no bytes.
    #[must_use]
    pub fn token_bytes(&self, count: usize) -> Vec<Vec<u8>> {
        let inner = self.inner.unbounded();
        let is_byte_level = inner.get_decoder().is_some_and(contains_byte_level);
        let added = inner.get_added_tokens_decoder();
        let bytes = |id: u32| {
            let Some(token) = inner.id_to_token(id) else { return Vec::new() };
            match added.get(&id) {
                Some(added) if added.special => {
                    std::iter::once(SPECIAL).chain(added.content.bytes()).collect()
                }
                Some(added) => added.content.clone().into_bytes(),
                None if is_byte_level => byte_level(&token).unwrap_or_else(|| token.into_bytes()),
                None => sentencepiece(&token),
            }
        };
        (0..).take(count).map(bytes).collect()
    }
}

/// Whether tokens are made of characters that stand for bytes.
fn contains_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(contains_byte_level),
        _ => false,
    }
}

/// The bytes of a token in the alphabet of GPT-2: printable characters stand for themselves, all others for U+0100 and
/// what follows. `None` if it has other characters.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let of = |character: char| {
        let code = u32::from(character);
        match u8::try_from(code) {
            Ok(byte) => printable(byte).then_some(byte),
            Err(_) => (0..=u8::MAX).filter(|&byte| !printable(byte)).nth((code - 0x100) as usize),
        }
    };
    token.chars().map(of).collect()
}

/// The bytes of a token in which `▁` is a space and `<0x0A>` a byte.
fn sentencepiece(token: &str) -> Vec<u8> {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match digits.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => token.replace('▁', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixture;

    #[test]
    fn every_byte_has_its_character() {
        assert_eq!(byte_level("Ġhé").unwrap(), [0x20, b'h', 0xe9]);
        assert_eq!(byte_level("Ċ").unwrap(), [0x0a]);
        assert_eq!(byte_level("ł").unwrap(), [0xa0]);
        assert_eq!(byte_level("Ń").unwrap(), [0xad]);
        assert_eq!(byte_level("界"), None);
    }

    #[test]
    fn pieces_have_spaces_and_bytes() {
        assert_eq!(sentencepiece("▁of▁"), b" of ");
        assert_eq!(sentencepiece("<0xE2>"), [0xe2]);
        assert_eq!(sentencepiece("<0xEZ>"), b"<0xEZ>");
    }

    #[test]
    fn tokens_joined_are_the_text() {
        let tokenizer = fixture::tokenizer(None);
        let bytes = tokenizer.token_bytes(tokenizer.vocab_size());
        for text in ["hello world\n", "😀 é \u{7f}", "a  b\t"] {
            let joined: Vec<u8> = tokenizer
                .encode(text, false)
                .unwrap()
                .iter()
                .flat_map(|&id| bytes[id as usize].clone())
                .collect();
            assert_eq!(String::from_utf8(joined).unwrap(), text);
        }
        let eos = tokenizer.eos_ids()[0] as usize;
        assert_eq!(bytes[eos][0], SPECIAL);
    }
}
