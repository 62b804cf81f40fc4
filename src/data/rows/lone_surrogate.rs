//! Lone surrogates in JSON: escapes such as `\ud800`, half of a character that UTF-16 writes as two units. Programs that cut texts
//! between the units write them; they are no Unicode text, and no tokenizer takes them.

/// Describes the first lone surrogate in the strings of `json`, with its key.
pub(super) fn describe_lone_surrogate(json: &str) -> Option<String> {
    let mut key = None;
    let mut rest = json;
    while let Some((_, after)) = rest.split_once('"') {
        let end = string_end(after);
        let string = &after[..end];
        rest = after.get(end + 1..).unwrap_or_default();
        let is_key = rest.trim_start().starts_with(':');
        if let Some(escape) = lone_surrogate(string) {
            let place = match key.filter(|_| !is_key) {
                Some(key) => format!("\"{key}\""),
                None => "a string".to_owned(),
            };
            return Some(format!(
                "{place} holds {escape}, a lone surrogate: half of a character, which JSON writes as two escapes such \
                 as \\ud83d\\ude00; write both, or \\ufffd in its place"
            ));
        }
        if is_key {
            key = Some(string);
        }
    }
    None
}

/// The byte at which a string ends whose opening quote is before `text`.
fn string_end(text: &str) -> usize {
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => return index,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    text.len()
}

/// The first escape in `string` that is a surrogate without its other half.
fn lone_surrogate(string: &str) -> Option<&str> {
    let unit = |at: usize| {
        let digits = string.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = string[at..].find('\\') {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => return string.get(at..at + 6),
            _ => 1 + string[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Option<(String, String)> {
        let description = describe_lone_surrogate(json)?;
        let (place, rest) = description.split_once(" holds ").unwrap();
        let (escape, rest) = rest.split_once(", ").unwrap();
        assert!(rest.starts_with("a lone surrogate: half of a character"), "{rest}");
        Some((place.to_owned(), escape.to_owned()))
    }

    #[test]
    fn halves_of_characters_are_named_with_their_key() {
        for (json, place, escape) in [
            (r#"{"text": "a\ud800"}"#, r#""text""#, r"\ud800"),
            (r#"{"text": "\uDC00b"}"#, r#""text""#, r"\uDC00"),
            (r#"{"a": "\ud83d\ude00", "b" : ["x", "\ud83d\ud83d\ude00"]}"#, r#""b""#, r"\ud83d"),
            (r#"{"a": 1, "b\ud800": 2}"#, "a string", r"\ud800"),
            (r#"["\ud800"]"#, "a string", r"\ud800"),
            (r#"{"text": "\"\\\ud800 and no end"#, r#""text""#, r"\ud800"),
        ] {
            assert_eq!(found(json), Some((place.to_owned(), escape.to_owned())), "{json}");
        }
    }

    #[test]
    fn whole_characters_and_escaped_backslashes_are_none() {
        for json in [
            "",
            r#"{"text": "\ud83d\ude00 \u00e9 é\\ud800 \n"}"#,
            r#"{"text": "\u00e"#,
            r#"{"text": "\é"}"#,
            r#"{"text": "\"#,
            r"\ud800",
        ] {
            assert_eq!(found(json), None, "{json}");
        }
    }
}
