//! JSON: one array of objects.

use std::fmt;
use std::io::{self, BufRead, Read as _};

use serde::Deserializer as _;
use serde::de::{self, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded::{Bounded, Budget};
use super::collector::{MAX_ROW_BYTES, RowCollector, file_error};
use super::jsonl;
use crate::data::rows::Position;
use crate::data::rows::fields::parse_element;
use crate::data::rows::located::error_at;
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
    let (mut refused, mut row_number) = (None, 0);
    let (bounded, budget) = Bounded::new(reader);
    let mut json = serde_json::Deserializer::from_reader(bounded);
    let elements = Elements { rows, budget, row_number: &mut row_number, refused: &mut refused };
    let outcome = json.deserialize_seq(elements).and_then(|()| json.end());
    match (refused, outcome) {
        (Some(error), _) => Err(error),
        (None, Err(error)) if error.io_error_kind() == Some(io::ErrorKind::FileTooLarge) => {
            let reason = format!("the row is longer than {MAX_ROW_BYTES} bytes");
            Err(error_at(&path, Position::Row(row_number + 1), &reason))
        }
        (None, Err(error)) if error.is_io() => Err(Error::io("read", &path)(error.into())),
        (None, Err(error)) => Err(file_error(&path, format!("invalid JSON ({error})"))),
        (None, Ok(())) => Ok(()),
    }
}

/// Passes each element to `rows` as it is parsed, so that the array is never in memory as a whole.
struct Elements<'a, 'r> {
    rows: &'a mut RowCollector<'r>,
    budget: Budget,
    /// Rows read.
    row_number: &'a mut usize,
    refused: &'a mut Option<Error>,
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> std::result::Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Box<RawValue>>()? {
            self.budget.renew();
            *self.row_number += 1;
            if let Err(error) = self.rows.push(Position::Row(*self.row_number), parse_element(&value)) {
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

    #[test]
    fn a_row_without_end_is_refused_before_it_is_read() {
        for (start, byte) in
            [(&b"[{\"text\": \"a\"}, {\"text\": \""[..], b'x'), (b"[1, [", b'['), (b"[1, ", b' ')]
        {
            let columns = Columns::parse(&[]).unwrap();
            let mut rows = RowCollector::new(Path::new("d/a.json"), &columns);
            let endless = io::BufReader::new(start.chain(io::repeat(byte)));
            let error = read(endless, &mut rows).unwrap_err().to_string();
            let known =
                ["d/a.json: row 2: the row is longer than 16777216 bytes", "d/a.json: row 1: a row must be"];
            assert!(known.iter().any(|known| error.starts_with(known)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rows(&[b"[{\"text\":", bytes.as_slice()].concat());
        }
    }
}
