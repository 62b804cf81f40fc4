//! What a `tokenizer.json` may make of a text. Its normalizers replace, and its templates repeat: a few lines can turn
//! a word into gigabytes, so that files are refused whose pipelines multiply, and texts that would become too long.

use serde::Deserialize;
use serde_json::Value;

/// Largest text after normalization, in bytes.
pub(super) const MAX_TEXT: usize = 256 << 20;

/// How many times its size a decoder may make of a text.
const MAX_DECODED: usize = 64;

/// How many times a template may repeat a text, and the special tokens that it may add.
const MAX_REPEATS: usize = 16;
const MAX_SPECIALS: usize = 1 << 16;

/// Largest `max_input_chars_per_word` of a `WordPiece` model; the time for a word grows with its cube.
const MAX_WORD: u64 = 256;

/// A text of n bytes becomes one of at most `factor` · n + `more` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    factor: usize,
    more: usize,
}

impl Growth {
    const NONE: Self = Self { factor: 1, more: 0 };

    /// Bytes that a text of `bytes` bytes may become.
    pub(super) const fn of(self, bytes: usize) -> usize {
        bytes.saturating_mul(self.factor).saturating_add(self.more)
    }

    const fn then(self, next: Self) -> Self {
        Self { factor: self.factor.saturating_mul(next.factor), more: next.of(self.more) }
    }
}

/// The parts of `tokenizer.json` that decide; vocabularies are large and read elsewhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pipeline {
    normalizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Model {
    max_input_chars_per_word: Value,
}

/// Checks the text of a `tokenizer.json` and returns the growth of its normalizers.
///
/// # Errors
/// What multiplies, by key; invalid JSON.
pub(super) fn check(json: &str) -> Result<Growth, String> {
    let file: Pipeline = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let decoder = growth(&file.decoder, "decoders");
    if decoder.factor > MAX_DECODED || decoder.more > MAX_TEXT {
        return Err(format!(
            "\"decoder\" makes {} bytes of each byte, more than {MAX_DECODED}",
            decoder.factor
        ));
    }
    let (repeats, specials) = template(&file.post_processor);
    if repeats > MAX_REPEATS || specials > MAX_SPECIALS {
        return Err(format!(
            "\"post_processor\" repeats a text {repeats} times and adds {specials} special tokens, more than \
             {MAX_REPEATS} and {MAX_SPECIALS}"
        ));
    }
    let longest = file.model.max_input_chars_per_word.as_u64();
    if let Some(longest) = longest.filter(|&longest| longest > MAX_WORD) {
        return Err(format!(
            "\"max_input_chars_per_word\" is {longest}, expected at most {MAX_WORD}; 100 is usual"
        ));
    }
    let normalizer = growth(&file.normalizer, "normalizers");
    if normalizer.of(1) > MAX_TEXT {
        return Err(format!("\"normalizer\" may make more than {MAX_TEXT} bytes of a single one"));
    }
    Ok(normalizer)
}

/// The growth by a normalizer or decoder; `parts` is the key of the list in a sequence of them.
fn growth(step: &Value, parts: &str) -> Growth {
    let length = |key: &str| step[key].as_str().map_or(0, str::len);
    match step["type"].as_str() {
        Some("Sequence") => {
            let steps = step[parts].as_array().into_iter().flatten();
            steps.fold(Growth::NONE, |before, step| before.then(growth(step, parts)))
        }
        Some("Replace") => match step["pattern"]["String"].as_str() {
            // An empty pattern, as a regular expression may be, is found in front of every byte.
            Some(pattern) if !pattern.is_empty() => {
                Growth { factor: length("content").div_ceil(pattern.len()).max(1), more: 0 }
            }
            _ => Growth { factor: length("content").saturating_add(1), more: length("content") },
        },
        Some("Prepend") => Growth { factor: 1, more: length("prepend") },
        // Base64 of a trie and what it writes for a character.
        Some("Precompiled") => Growth { factor: charsmap(&step["precompiled_charsmap"]), more: 0 },
        _ => Growth::NONE,
    }
}

/// The longest text that a precompiled map of characters holds, in bytes: no entry is longer than the whole.
fn charsmap(map: &Value) -> usize {
    /// Longest replacement of the maps of `SentencePiece`.
    const USUAL: usize = 33;
    /// Size of the largest of those maps in base64.
    const LARGEST: usize = 1 << 19;
    match map.as_str() {
        Some(map) if map.len() > LARGEST => map.len(),
        _ => USUAL,
    }
}

/// How many times a post-processor repeats a text, and the special tokens that it adds at most.
fn template(step: &Value) -> (usize, usize) {
    if step["type"] == "Sequence" {
        let steps = step["processors"].as_array().into_iter().flatten().map(template);
        return steps.fold((1, 0), |(repeats, specials), (times, more)| {
            (repeats.saturating_mul(times), specials.saturating_mul(times).saturating_add(more))
        });
    }
    let Some(pieces) = step["single"].as_array() else { return (1, 0) };
    let ids = |piece: &Value| {
        let token = piece["SpecialToken"]["id"].as_str()?;
        Some(step["special_tokens"][token]["ids"].as_array().map_or(1, Vec::len))
    };
    let repeats = pieces.iter().filter(|piece| !piece["Sequence"].is_null()).count();
    (repeats.max(1), pieces.iter().filter_map(ids).fold(0, usize::saturating_add))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    #[test]
    fn usual_pipelines_grow_a_little() {
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]});
        assert_eq!(check(&json!({ "normalizer": llama }).to_string()), Ok(Growth { factor: 3, more: 9 }));
        assert_eq!(check(r#"{"normalizer": {"type": "NFC"}}"#), Ok(Growth::NONE));
        assert_eq!(
            check(r#"{"normalizer": null, "model": {"max_input_chars_per_word": 100}}"#),
            Ok(Growth::NONE)
        );
    }

    #[test]
    fn what_multiplies_is_refused_by_key() {
        let tenfold = replace("a", "aaaaaaaaaa");
        let steps = vec![tenfold; 9];
        let regex = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a".repeat(1000)});
        let sequence = json!({"id": "A", "type_id": 0});
        for (json, reason) in [
            (
                json!({"normalizer": {"type": "Sequence", "normalizers": steps}}),
                "\"normalizer\" may make more than 268435456 bytes of a single one",
            ),
            (
                json!({"normalizer": {"type": "Sequence", "normalizers": [regex, regex, regex]}}),
                "\"normalizer\" may make more than",
            ),
            (
                json!({"decoder": {"type": "Sequence", "decoders": steps}}),
                "\"decoder\" makes 1000000000 bytes of each byte, more than 64",
            ),
            (
                json!({"post_processor": {"type": "TemplateProcessing", "single": vec![json!({"Sequence": sequence}); 17]}}),
                "\"post_processor\" repeats a text 17 times",
            ),
            (
                json!({"model": {"type": "WordPiece", "max_input_chars_per_word": 50_000}}),
                "\"max_input_chars_per_word\" is 50000, expected at most 256; 100 is usual",
            ),
        ] {
            let error = check(&json.to_string()).unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
