//! JSON: one array of objects.

use std::fmt;
use std::io::{BufRead, Read as _};

use serde::Deserializer as _;
use serde::de::{self, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::collector::{MAX_ROW_BYTES, RowCollector, file_error};
use super::jsonl;
use crate::data::rows::Position;
use crate::data::rows::fields::parse_element;
use crate::{Error, Result};

/// Reads the objects of an array one by one. A file that starts with an object is read as JSON Lines.
///
/// # Errors
/// See [`read_rows`](super::read::read_rows).
pub(super) fn read(mut reader: impl BufRead, rows: &mut RowCollector) -> Result<()> {
    let start = reader.fill_buf().map_err(Error::io("read", &rows.path))?;
    let bom_len = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let first = start[bom_len..].trim_ascii_start().first().copied();
    reader.consume(bom_len);
    match first {
        Some(b'{') => return jsonl::read(reader, MAX_ROW_BYTES, rows),
        Some(b'[') => {}
        // An empty array and an empty file are the same mistake.
        None if reader.by_ref().bytes().next().is_none() => return Ok(()),
        _ => {
            return Err(file_error(
                &rows.path,
                "a .json file must be an array of rows, or have one JSON object per line",
            ));
        }
    }
    let path = rows.path.clone();
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let outcome = json.deserialize_seq(Elements { rows, refused: &mut refused }).and_then(|()| json.end());
    match (refused, outcome) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(file_error(&path, format!("invalid JSON ({error})"))),
        (None, Ok(())) => Ok(()),
    }
}

/// Passes each element to `rows` as it is parsed, so that the array is never in memory as a whole.
struct Elements<'a, 'r> {
    rows: &'a mut RowCollector<'r>,
    refused: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        let mut row_number = 0;
        while let Some(value) = elements.next_element::<Box<RawValue>>()? {
            row_number += 1;
            if let Err(error) = self.rows.push(Position::Row(row_number), parse_element(&value)) {
                *self.refused = Some(error);
                return Err(de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{Columns, LocatedRow, Row};

    fn rows(text: &[u8]) -> Result<Vec<LocatedRow>> {
        let columns = Columns::default();
        let mut rows = RowCollector::new(Path::new("d/a.json"), &columns);
        read(text, &mut rows)?;
        rows.finish()
    }

    #[test]
    fn an_array_of_rows() {
        let rows = rows(b"\xef\xbb\xbf [{\"text\": \"a\"},\n {\"text\": \"b\"}]\n").unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.position, row.row)).collect();
        assert_eq!(
            rows,
            [(Position::Row(1), Row::Text("a".into())), (Position::Row(2), Row::Text("b".into()))]
        );
    }

    #[test]
    fn errors_name_the_file_and_the_row() {
        for (text, reason) in [
            ("", "d/a.json: the file holds no rows"),
            ("[]", "d/a.json: the file holds no rows"),
            ("3", "d/a.json: a .json file must be an array of rows, or have one JSON object per line"),
            (
                "[{\"text\": \"a\"}, {\"text\": 1}]",
                "d/a.json: row 2: \"text\" must be a string, found a number",
            ),
            (
                r#"[{"text": "a"}, {"messages": [{"role": "user", "content": "a\ud83d"}]}]"#,
                "d/a.json: row 2: \"content\" holds \\ud83d, a lone surrogate: half of a character, which JSON writes as two \
                 escapes such as \\ud83d\\ude00; write both, or \\ufffd in its place",
            ),
            ("[[]]", "d/a.json: row 1: a row must be a JSON object, found an array"),
            ("[{\"text\": \"a\"}", "d/a.json: invalid JSON (EOF while parsing a list at line 1 column 14)"),
            ("[{\"text\": \"a\"}] x", "d/a.json: invalid JSON (trailing characters at line 1 column 17)"),
            ("{\"text\": 1}", "d/a.json:1: \"text\" must be a string, found a number"),
        ] {
            assert_eq!(rows(text.as_bytes()).unwrap_err().to_string(), reason);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rows(&[b"[{\"text\":", bytes.as_slice()].concat());
        }
    }
}
