//! Reads rows from files. The extension determines the format:
//!
//! | extension           | rows                                                                                |
//! |---------------------|-------------------------------------------------------------------------------------|
//! | `.json`             | the objects of one array; a file that starts with an object is read as jsonl        |
//! | `.csv`, `.tsv`      | lines of a table with a header                                                      |
//! | `.parquet`          | rows of a table                                                                     |
//! | `.safetensors`      | [token ids](super::tokens)                                                          |
//! | `.jsonl` and others | one JSON object per line; blank lines are skipped                                   |
//!
//! A UTF-8 byte order mark is accepted. Nested values of a table (`messages`, `tools`, …) may be JSON in a string.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::collector::{MAX_ROW_BYTES, RowCollector};
use super::{csv, json, jsonl, parquet, tokens};
use crate::data::rows::{Columns, LocatedRow, Position};
use crate::{Error, Result, files};

/// Extensions of data files.
pub(in crate::data) const EXTENSIONS: [&str; 6] =
    ["jsonl", "json", "csv", "tsv", "parquet", tokens::TOKENS_EXTENSION];

/// Reads all rows of a file, in the format given by its extension.
///
/// # Errors
/// [`Error::Dataset`] with file and position of the first invalid [`Row`](crate::data::Row), or if the file has no
/// rows; [`Error::Io`] if the file cannot be read.
pub fn read_rows(path: &Path, columns: &Columns) -> Result<Vec<LocatedRow>> {
    files::guard(path, Error::Dataset, || read_unguarded(RowCollector::new(path, columns))?.finish())
}

/// As [`read_rows`], also with the JSON of each row, all of whose columns it has in JSON files; none for token ids.
///
/// # Errors
/// See [`read_rows`].
pub fn read_rows_and_json(path: &Path, columns: &Columns) -> Result<(Vec<LocatedRow>, Vec<Value>)> {
    files::guard(path, Error::Dataset, || {
        let mut rows = read_unguarded(RowCollector::keeping_json(path, columns))?;
        let json = rows.take_json();
        Ok((rows.finish()?, json))
    })
}

/// Reads the JSON objects of a file with their positions, whatever their columns.
///
/// # Errors
/// As [`read_rows`], but for the columns.
pub(in crate::data) fn read_objects(path: &Path) -> Result<Vec<(Position, Value)>> {
    let columns = Columns::default();
    files::guard(path, Error::Dataset, || {
        read_unguarded(RowCollector::of_objects(path, &columns))?.finish_objects()
    })
}

fn read_unguarded(mut rows: RowCollector) -> Result<RowCollector> {
    let path = Arc::clone(&rows.path);
    let file = files::open(&path).map_err(Error::io("read", &path))?;
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("csv") => csv::read(file, b',', &mut rows)?,
        Some("tsv") => csv::read(file, b'\t', &mut rows)?,
        Some("parquet") => parquet::read(&file, &mut rows)?,
        Some("json") => json::read(BufReader::new(file), &mut rows)?,
        Some(tokens::TOKENS_EXTENSION) => tokens::read(file, &mut rows)?,
        _ => jsonl::read(BufReader::new(file), MAX_ROW_BYTES, &mut rows)?,
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::rows::Row;

    #[test]
    fn a_missing_file_is_an_io_error() {
        let error = read_rows(Path::new("/no/such.jsonl"), &Columns::default()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such.jsonl: "), "{error}");
    }

    #[test]
    fn the_json_of_a_row_has_what_else_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{\"id\": 7, \"body\": \"x\"}\n\n{\"body\": \"y\", \"id\": null}\n").unwrap();
        let columns = Columns::parse(&["text=body".to_owned()]).unwrap();
        let (rows, json) = read_rows_and_json(&path, &columns).unwrap();
        assert_eq!(rows, read_rows(&path, &columns).unwrap());
        let json: Vec<String> = json.iter().map(ToString::to_string).collect();
        assert_eq!(json, [r#"{"id":7,"body":"x"}"#, r#"{"body":"y","id":null}"#]);
    }

    #[test]
    fn every_format_holds_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            write("a.jsonl", "{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
            write("lines.json", "\n{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
            write("array.JSON", "\u{feff}[{\"prompt\":\"p\",\"completion\":\"c\"}]"),
            write("a.csv", "completion,prompt\nc,p\n"),
            write("a.tsv", "completion\tprompt\nc\tp\n"),
            write("a.txt", "{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
        ];
        for path in files {
            let rows = read_rows(&path, &Columns::default()).unwrap();
            let expected = Row::Completion { prompt: "p".into(), completion: "c".into() };
            assert_eq!((rows.len(), &rows[0].row), (1, &expected), "{}", path.display());
        }
    }
}
