//! Reads jsonl files into rows that know where they stand.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::Row;
use crate::{Error, Result};

/// Bytes of the longest line that is read; a longer one is no training example but a broken file.
const LONGEST_LINE: usize = 16 << 20;

/// A row and where it stands. It keeps the place, because a row may turn out to be wrong only
/// later, when a chat template or the tokenizer sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// What was read.
    pub row: Row,
    /// The file.
    pub path: Arc<Path>,
    /// 1-based line in the file.
    pub line: usize,
}

impl Located {
    /// Reads the row in `text`, which a caller took from line `line` of `path`.
    ///
    /// # Errors
    /// [`Error::Dataset`] naming file and line for anything that is not a [`Row`].
    pub fn parse(text: &[u8], path: &Arc<Path>, line: usize) -> Result<Self> {
        let row = Row::parse(text).map_err(|reason| located(path, line, &reason))?;
        Ok(Self { row, path: Arc::clone(path), line })
    }

    /// Puts `path:line: ` in front of an [`Error::Dataset`]; other errors pass unchanged.
    #[must_use]
    pub fn blame(&self, error: Error) -> Error {
        match error {
            Error::Dataset(reason) => located(&self.path, self.line, &reason),
            other => other,
        }
    }
}

fn located(path: &Path, line: usize, reason: &str) -> Error {
    Error::Dataset(format!("{}:{line}: {reason}", path.display()))
}

/// Reads a jsonl file: one JSON object per line, blank lines skipped, a UTF-8 byte order mark tolerated.
///
/// # Errors
/// [`Error::Dataset`] naming file and line for anything that is not a [`Row`], and for a file
/// without rows; [`Error::Io`] when the file cannot be read.
pub fn read_rows(path: &Path) -> Result<Vec<Located>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    read_lines(BufReader::new(file), &Arc::from(path), LONGEST_LINE)
}

fn read_lines(mut reader: impl BufRead, path: &Arc<Path>, longest: usize) -> Result<Vec<Located>> {
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limit = longest as u64 + 1;
        let read =
            reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        if read > longest && !bytes.ends_with(b"\n") {
            return Err(located(path, line, &format!("the line is longer than {longest} bytes")));
        }
        let mut content = bytes.as_slice();
        if line == 1 {
            content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        }
        if !content.trim_ascii().is_empty() {
            rows.push(Located::parse(content, path, line)?);
        }
    }
    if rows.is_empty() {
        return Err(Error::Dataset(format!("{}: the file holds no rows", path.display())));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Located>> {
        read_lines(bytes, &Arc::from(Path::new("d/train.jsonl")), 256)
    }

    fn refused(bytes: &[u8]) -> String {
        read(bytes).expect_err("must be refused").to_string()
    }

    #[test]
    fn rows_know_their_lines() {
        let rows = read(b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\n  \t\n{\"text\":\"b\"}").unwrap();
        let rows: Vec<_> = rows.into_iter().map(|located| (located.line, located.row)).collect();
        assert_eq!(rows, [(1, Row::Text("a".into())), (4, Row::Text("b".into()))]);
    }

    #[test]
    fn a_wrong_row_is_reported_with_file_and_line() {
        assert_eq!(
            refused(b"{\"text\":\"fine\"}\n\n{\"input\":\"a\",\"output\":\"b\"}\n"),
            "d/train.jsonl:3: found keys \"input\", \"output\"; \
             a row needs \"text\", or \"prompt\" and \"completion\", or \"messages\""
        );
        assert_eq!(
            refused(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}"),
            "d/train.jsonl:2: not UTF-8: byte 0xff at column 10"
        );
    }

    #[test]
    fn only_reasons_about_the_data_get_a_place() {
        let located = &read(b"{\"text\":\"a\"}").unwrap()[0];
        assert_eq!(located.blame(Error::Dataset("odd".into())).to_string(), "d/train.jsonl:1: odd");
        assert_eq!(located.blame(Error::Config("odd".into())).to_string(), "odd");
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
        assert_eq!(read(fits.as_bytes()).unwrap()[1].line, 2);
        let endless = BufReader::new(std::io::repeat(b'x'));
        let error = read_lines(endless, &Arc::from(Path::new("big.jsonl")), 256).unwrap_err();
        assert_eq!(error.to_string(), "big.jsonl:1: the line is longer than 256 bytes");
    }

    #[test]
    fn a_missing_file_is_an_io_error() {
        let error = read_rows(Path::new("/no/such.jsonl")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such.jsonl: "), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
