//! JSON in the format of Python's `json.dumps`. Chat templates are written for it and models trained on it, so a
//! missing space after a comma would be a different prompt.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Arguments of transformers' `tojson` filter.
#[derive(Debug, Clone, Default)]
pub(super) struct DumpOptions {
    /// Spaces per level, with one entry per line; `None` writes a single line.
    pub indent: Option<usize>,
    /// Separators of entries and of key and value; `None` means Python's defaults.
    pub separators: Option<(String, String)>,
    /// Escape non-ASCII characters as `\uXXXX`.
    pub ensure_ascii: bool,
    /// Sort the keys of objects.
    pub sort_keys: bool,
}

/// Serializes `value`.
pub(super) fn dumps(mut value: Value, options: &DumpOptions) -> serde_json::Result<String> {
    if options.sort_keys {
        value.sort_all_objects();
    }
    let between_entries = if options.indent.is_some() { "," } else { ", " };
    let (item, key) = match &options.separators {
        Some((item, key)) => (item.as_str(), key.as_str()),
        None => (between_entries, ": "),
    };
    let python = PythonFormatter { item, key, indent: options.indent, depth: 0, is_empty: true };
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // JSON is ASCII outside of strings, so escaping the finished text touches strings only.
    Ok(if options.ensure_ascii { escape_non_ascii(&text) } else { text })
}

fn escape_non_ascii(text: &str) -> String {
    let mut units = [0; 2];
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
        out
    })
}

struct PythonFormatter<'s> {
    item: &'s str,
    key: &'s str,
    indent: Option<usize>,
    depth: usize,
    is_empty: bool,
}

impl PythonFormatter<'_> {
    fn open(&mut self, out: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(bracket)
    }

    fn close(&mut self, out: &mut (impl Write + ?Sized), bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.new_line(out)?;
        }
        self.is_empty = false;
        out.write_all(bracket)
    }

    fn entry(&mut self, out: &mut (impl Write + ?Sized), first: bool) -> io::Result<()> {
        self.is_empty = false;
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.new_line(out)
    }

    fn new_line(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        match self.indent {
            Some(width) => write!(out, "\n{:1$}", "", width.saturating_mul(self.depth).min(1024)),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonFormatter<'_> {
    fn begin_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.entry(out, first)
    }

    fn begin_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.entry(out, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn write_f64<W: Write + ?Sized>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(python_repr(value).as_bytes())
    }
}

/// Python's `repr` of a float: the shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
fn python_repr(value: f64) -> String {
    let scientific = format!("{value:e}");
    match scientific
        .split_once('e')
        .and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?)))
    {
        Some((digits, exponent)) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(value: Value) -> String {
        dumps(value, &DumpOptions::default()).unwrap()
    }

    #[test]
    fn one_line_has_spaces_after_separators() {
        let value = json!({"b": [1, -2, 3.0, true, null], "a": {}, "c": [], "é<'": "\u{1}\"\\\n/ü"});
        assert_eq!(
            plain(value),
            r#"{"b": [1, -2, 3.0, true, null], "a": {}, "c": [], "é<'": "\u0001\"\\\n/ü"}"#
        );
    }

    #[test]
    fn indentation_leaves_empty_containers_closed() {
        let options = DumpOptions { indent: Some(2), sort_keys: true, ..DumpOptions::default() };
        let text = dumps(json!({"b": [1, {"x": []}], "a": {}}), &options).unwrap();
        assert_eq!(text, "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"x\": []\n    }\n  ]\n}");
        let flat = DumpOptions { indent: Some(0), ..DumpOptions::default() };
        assert_eq!(dumps(json!([[], [1]]), &flat).unwrap(), "[\n[],\n[\n1\n]\n]");
    }

    #[test]
    fn separators_and_ascii_are_options() {
        let separators = Some((",".to_owned(), ":".to_owned()));
        let options = DumpOptions { separators, ensure_ascii: true, ..DumpOptions::default() };
        assert_eq!(dumps(json!({"k": ["é", "😀"]}), &options).unwrap(), r#"{"k":["\u00e9","\ud83d\ude00"]}"#);
    }

    #[test]
    fn floats_are_written_like_python_repr() {
        for (value, repr) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
        ] {
            assert_eq!(python_repr(value), repr);
        }
    }
}
