//! Reads rows from files. The extension determines the format:
//!
//! | extension           | rows                                                                                |
//! |---------------------|-------------------------------------------------------------------------------------|
//! | `.json`             | the objects of one array; a file that starts with an object is read as jsonl        |
//! | `.csv`, `.tsv`      | lines of a table with a header                                                      |
//! | `.parquet`          | rows of a table                                                                     |
//! | `.jsonl` and others | one JSON object per line; blank lines are skipped                                   |
//!
//! A UTF-8 byte order mark is accepted. Nested values of a table (`messages`, `tools`, …) may be JSON in a string.

use std::io::BufReader;
use std::path::Path;

use super::collector::{MAX_ROW_BYTES, RowCollector};
use super::{csv, json, jsonl, parquet};
use crate::data::rows::{Columns, LocatedRow};
use crate::{Error, Result, files};

/// Extensions of data files.
pub(in crate::data) const EXTENSIONS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

/// Reads all rows of a file, in the format given by its extension.
///
/// # Errors
/// [`Error::Dataset`] with file and position of the first invalid [`Row`](crate::data::Row), or if the file has no
/// rows; [`Error::Io`] if the file cannot be read.
pub fn read_rows(path: &Path, columns: &Columns) -> Result<Vec<LocatedRow>> {
    files::guard(path, Error::Dataset, || read_unguarded(path, columns))
}

fn read_unguarded(path: &Path, columns: &Columns) -> Result<Vec<LocatedRow>> {
    let file = files::open(path).map_err(Error::io("read", path))?;
    let mut rows = RowCollector::new(path, columns);
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str() {
        Some("csv") => csv::read(file, b',', &mut rows)?,
        Some("tsv") => csv::read(file, b'\t', &mut rows)?,
        Some("parquet") => parquet::read(&file, &mut rows)?,
        Some("json") => json::read(BufReader::new(file), &mut rows)?,
        _ => jsonl::read(BufReader::new(file), MAX_ROW_BYTES, &mut rows)?,
    }
    rows.finish()
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
