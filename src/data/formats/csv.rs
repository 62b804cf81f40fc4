//! Delimited text ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)) with a header.

use std::collections::HashSet;
use std::io::{self, Read};

use ::csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use super::bounded::Bounded;
use super::collector::{MAX_ROW_BYTES, RowCollector, file_error};
use crate::data::rows::Position;
use crate::data::rows::located::error_at;
use crate::{Error, Result};

/// Reads a table. Positions are rows below the header, because quoted cells may span lines.
///
/// # Errors
/// See [`read_rows`](super::read::read_rows); rows with more or fewer cells than the header.
pub(super) fn read(file: impl Read, delimiter: u8, rows: &mut RowCollector) -> Result<()> {
    let (bounded, budget) = Bounded::new(file);
    let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(bounded);
    let header = reader.byte_headers().map_err(|error| read_error(rows, Position::Line(1), error))?;
    let names: Vec<String> =
        header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
    check_header(rows, &names)?;
    let mut record = ByteRecord::new();
    for position in (1..).map(Position::Row) {
        budget.renew();
        if !reader.read_byte_record(&mut record).map_err(|error| read_error(rows, position, error))? {
            break;
        }
        rows.push(position, parse_cells(&names, &record))?;
    }
    Ok(())
}

fn check_header(rows: &RowCollector, names: &[String]) -> Result<()> {
    let mut known = HashSet::new();
    match names.iter().find(|name| !known.insert(*name)) {
        Some(name) => {
            let name: String = name.chars().take(40).collect();
            Err(file_error(
                &rows.path,
                format!("two columns are called \"{name}\"; the first line names the columns"),
            ))
        }
        None => Ok(()),
    }
}

fn parse_cells(names: &[String], record: &ByteRecord) -> Result<Value, String> {
    if record.len() != names.len() {
        return Err(format!(
            "the row has {} cells but the first line names {} columns; quote cells that hold delimiters",
            record.len(),
            names.len()
        ));
    }
    let cell = |(name, cell): (&String, &[u8])| match std::str::from_utf8(cell) {
        Ok(text) => Ok((name.clone(), Value::String(text.to_owned()))),
        Err(_) => Err(format!("the cell of column \"{name}\" is not UTF-8")),
    };
    names.iter().zip(record).map(cell).collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

fn read_error(rows: &RowCollector, position: Position, error: ::csv::Error) -> Error {
    match error.into_kind() {
        ::csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let reason = format!("the row is longer than {MAX_ROW_BYTES} bytes; is a quote left open?");
            error_at(&rows.path, position, &reason)
        }
        ::csv::ErrorKind::Io(error) => Error::io("read", &rows.path)(error),
        other => error_at(&rows.path, position, &format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{Chat, Columns, LocatedRow, Row};

    fn rows(file: impl Read) -> Result<Vec<LocatedRow>> {
        let columns = Columns::default();
        let mut rows = RowCollector::new(Path::new("d/a.csv"), &columns);
        read(file, b',', &mut rows)?;
        rows.finish()
    }

    #[test]
    fn cells_may_hold_lines_quotes_and_json() {
        let text = "\u{feff}tools,messages\r\n\r\n,\"[{\"\"role\"\": \"\"user\"\",\n \"\"content\"\": \"\"a,b\"\"}]\"\n";
        let rows = rows(text.as_bytes()).unwrap();
        let messages = vec![serde_json::json!({"role": "user", "content": "a,b"})];
        assert_eq!(rows[0].row, Row::Chat(Chat { messages, ..Chat::default() }));
        assert_eq!(rows[0].position, Position::Row(1));
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        for (text, reason) in [
            ("", "d/a.csv: the file holds no rows"),
            ("text\n", "d/a.csv: the file holds no rows"),
            ("text,a,a\n1,2,3\n", "d/a.csv: two columns are called \"a\"; the first line names the columns"),
            (
                "text,b\nx,y\nx\n",
                "d/a.csv: row 2: the row has 1 cells but the first line names 2 columns; quote cells that hold delimiters",
            ),
            (
                "messages\nhi\n",
                "d/a.csv: row 1: \"messages\" is a string that is not JSON (expected value at line 1 column 1)",
            ),
        ] {
            assert_eq!(rows(text.as_bytes()).unwrap_err().to_string(), reason);
        }
        let error = rows(&b"messages\n\"[\"\"\\ud800\"\"]\"\n"[..]).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "d/a.csv: row 1: \"messages\" is a string that is not JSON (a string holds \\ud800, a lone surrogate"
            ),
            "{error}"
        );
        let error = rows(&b"text\na\n\xff\n"[..]).unwrap_err().to_string();
        assert_eq!(error, "d/a.csv: row 2: the cell of column \"text\" is not UTF-8");
        let error = rows("question,answer\na,b\n".as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with("d/a.csv: row 1: found keys \"question\", \"answer\"; a row needs"),
            "{error}"
        );
    }

    #[test]
    fn a_hundred_thousand_columns_take_no_hour() {
        let names = |count: usize| (0..count).map(|i| format!("c{i}")).collect::<Vec<_>>().join(",");
        let table = format!("text,{}\n{}\n", names(100_000), "a,".repeat(100_000) + "b");
        let start = std::time::Instant::now();
        assert_eq!(rows(table.as_bytes()).unwrap()[0].row, Row::Text("a".into()));
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn an_open_quote_does_not_take_in_an_endless_file() {
        let endless = (&b"text\na\n\""[..]).chain(io::repeat(b'x'));
        let error = rows(endless).unwrap_err().to_string();
        assert_eq!(error, "d/a.csv: row 2: the row is longer than 16777216 bytes; is a quote left open?");
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = rows(&[b"text,a\n", bytes.as_slice()].concat()[..]);
        }
    }
}
