//! JSON Lines: one JSON object per line.

use std::io::{BufRead, Read as _};
use std::path::Path;

use super::collector::RowCollector;
use crate::data::rows::located::error_at;
use crate::data::rows::{Position, fields};
use crate::{Error, Result};

/// A line that is not blank.
pub(in crate::data) struct Line<'a> {
    /// Its 1-based number.
    pub(in crate::data) position: Position,
    /// Its byte offset in the file.
    pub(in crate::data) offset: u64,
    /// Its content without a byte order mark.
    pub(in crate::data) content: &'a [u8],
}

/// Reads all lines that are not blank, each of at most `max_bytes` bytes.
///
/// # Errors
/// See [`read_rows`](super::read::read_rows).
pub(super) fn read(reader: impl BufRead, max_bytes: usize, rows: &mut RowCollector) -> Result<()> {
    let path = rows.path.clone();
    for_each_line(reader, &path, max_bytes, |line| rows.push(line.position, fields::parse_json(line.content)))
}

/// Calls `take` with every line that is not blank; `path` is used in error messages.
///
/// # Errors
/// [`Error::Dataset`] for a line of more than `max_bytes` bytes, [`Error::Io`], and the errors of `take`.
pub(in crate::data) fn for_each_line(
    mut reader: impl BufRead,
    path: &Path,
    max_bytes: usize,
    mut take: impl FnMut(Line) -> Result<()>,
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut offset = 0;
    for line_number in 1.. {
        bytes.clear();
        let limit = max_bytes as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut bytes);
        let read = read.map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        let position = Position::Line(line_number);
        if read > max_bytes && !bytes.ends_with(b"\n") {
            return Err(error_at(path, position, &format!("the line is longer than {max_bytes} bytes")));
        }
        let bom_len =
            if line_number == 1 && bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let content = &bytes[bom_len..];
        if !content.trim_ascii().is_empty() {
            take(Line { position, offset: offset + bom_len as u64, content })?;
        }
        offset += read as u64;
    }
    Ok(())
}

/// The byte order mark of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{Columns, LocatedRow, Row};

    fn lines(reader: impl BufRead) -> Result<Vec<LocatedRow>> {
        let columns = Columns::default();
        let mut rows = RowCollector::new(Path::new("d/train.jsonl"), &columns);
        read(reader, 256, &mut rows)?;
        rows.finish()
    }

    fn refused(bytes: &[u8]) -> String {
        lines(bytes).expect_err("must be refused").to_string()
    }

    #[test]
    fn rows_know_their_lines() {
        let rows = lines(&b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\n  \t\n{\"text\":\"b\"}"[..]).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|located| (located.position, located.row)).collect();
        assert_eq!(
            rows,
            [(Position::Line(1), Row::Text("a".into())), (Position::Line(4), Row::Text("b".into()))]
        );
    }

    #[test]
    fn a_wrong_row_is_reported_with_file_and_line() {
        assert_eq!(
            refused(b"{\"text\":\"fine\"}\n\n{\"input\":\"a\",\"output\":\"b\"}\n"),
            "d/train.jsonl:3: found keys \"input\", \"output\"; \
             a row needs \"text\", or \"prompt\" and \"completion\", or \"messages\", or \"conversations\", \
             or \"instruction\" and \"output\", or \"chosen\" and \"rejected\""
        );
        assert_eq!(
            refused(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}"),
            "d/train.jsonl:2: not UTF-8: byte 0xff at column 10"
        );
        assert_eq!(
            refused(b"{\"text\":\"a\"}\n{\"text\":\"\\ud800\"}"),
            "d/train.jsonl:2: \"text\" holds \\ud800, a lone surrogate: half of a character, which JSON writes as two \
             escapes such as \\ud83d\\ude00; write both, or \\ufffd in its place"
        );
    }

    #[test]
    fn a_file_without_rows_is_refused() {
        for empty in ["", "\n\n", " \r\n\t", "\u{feff}\n"] {
            assert_eq!(refused(empty.as_bytes()), "d/train.jsonl: the file holds no rows");
        }
    }

    #[test]
    fn an_endless_line_is_refused_before_it_is_read() {
        let fits = format!("{{\"text\":\"{}\"}}\n{{\"text\":\"\"}}", "x".repeat(256 - 11));
        assert_eq!(lines(fits.as_bytes()).unwrap()[1].position, Position::Line(2));
        let endless = BufReader::new(std::io::repeat(b'x'));
        let error = lines(endless).unwrap_err();
        assert_eq!(error.to_string(), "d/train.jsonl:1: the line is longer than 256 bytes");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = lines(bytes.as_slice());
        }
    }
}
