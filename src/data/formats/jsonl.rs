//! One JSON object per line.

use std::io::{BufRead, Read as _};

use super::{Place, Rows, located};
use crate::data::row;
use crate::{Error, Result};

/// Reads every line of `reader` that is not blank, each of at most `longest` bytes.
///
/// # Errors
/// As [`read_rows`](super::read_rows).
pub(super) fn read(mut reader: impl BufRead, longest: usize, rows: &mut Rows) -> Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limit = longest as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut bytes);
        let read = read.map_err(Error::io("read", &rows.path))?;
        if read == 0 {
            break;
        }
        let place = Place::Line(line);
        if read > longest && !bytes.ends_with(b"\n") {
            return Err(located(&rows.path, place, &format!("the line is longer than {longest} bytes")));
        }
        let mut content = bytes.as_slice();
        if line == 1 {
            content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        }
        if !content.trim_ascii().is_empty() {
            rows.push(place, row::json(content))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{Columns, Located, Row};

    fn lines(reader: impl BufRead) -> Result<Vec<Located>> {
        let columns = Columns::default();
        let mut rows = Rows::new(Path::new("d/train.jsonl"), &columns);
        read(reader, 256, &mut rows)?;
        rows.finish()
    }

    fn refused(bytes: &[u8]) -> String {
        lines(bytes).expect_err("must be refused").to_string()
    }

    #[test]
    fn rows_know_their_lines() {
        let rows = lines(&b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\n  \t\n{\"text\":\"b\"}"[..]).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|located| (located.place, located.row)).collect();
        assert_eq!(rows, [(Place::Line(1), Row::Text("a".into())), (Place::Line(4), Row::Text("b".into()))]);
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
        assert_eq!(lines(fits.as_bytes()).unwrap()[1].place, Place::Line(2));
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
