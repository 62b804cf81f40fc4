//! [Parquet](https://parquet.apache.org) tables with lists and structs, uncompressed or with Snappy or Zstandard.

mod bounds;
mod pages;

use std::fs::File;
use std::sync::Arc;

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::collector::{RowCollector, file_error};
use crate::data::rows::Position;
use crate::data::rows::fields::found_keys;
use crate::data::rows::located::error_at;
use crate::data::rows::row::EXPECTED_KEYS;
use crate::{Error, Result};

/// Reads the columns that belong to rows.
///
/// # Errors
/// See [`read_rows`](super::read::read_rows).
pub(super) fn read(file: &File, rows: &mut RowCollector) -> Result<()> {
    let path = Arc::clone(&rows.path);
    let read_error =
        |error: ::parquet::errors::ParquetError| file_error(&path, format!("cannot be read: {error}"));
    let copy = file.try_clone().map_err(Error::io("read", &path))?;
    let reader = SerializedFileReader::new(copy).map_err(read_error)?;
    let schema = reader.metadata().file_metadata().schema();
    let used: Vec<_> =
        schema.get_fields().iter().filter(|column| rows.columns.is_read(column.name())).cloned().collect();
    if used.is_empty() {
        let columns: Map<_, _> =
            schema.get_fields().iter().map(|column| (column.name().to_owned(), Value::Null)).collect();
        return Err(file_error(&path, format!("{}; {EXPECTED_KEYS}", found_keys(&columns))));
    }
    bounds::check(file, &reader, |name| rows.columns.is_read(name)).map_err(|(row, reason)| match row {
        Some(row) => error_at(&path, Position::Row(row), &reason),
        None => file_error(&path, reason),
    })?;
    let projection = Type::group_type_builder(schema.name()).with_fields(used).build().map_err(read_error)?;
    for (index, row) in reader.get_row_iter(Some(projection)).map_err(read_error)?.enumerate() {
        let columns = row.map_err(read_error)?.into_columns().into_iter();
        let value = columns.map(|(name, field)| (name, to_json(field))).collect();
        rows.push(Position::Row(index + 1), Ok(Value::Object(value)))?;
    }
    Ok(())
}

/// Converts a cell to JSON; types without a counterpart, such as dates, become strings.
fn to_json(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) => x.into(),
        Field::Long(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float16(x) => f32::from(x).into(),
        Field::Float(x) => x.into(),
        Field::Double(x) => x.into(),
        Field::Str(text) => text.into(),
        // Old writers do not say that their bytes are text.
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(to_json).collect(),
        other => other.to_string().into(),
    }
}

/// Converts a struct to an object without its null fields, because chat templates test whether a key is defined.
fn object(row: Row) -> Map<String, Value> {
    let keys = row.into_columns().into_iter().map(|(name, field)| (name, to_json(field)));
    keys.filter(|(_, value)| !value.is_null()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::data::formats::read_rows;
    use crate::data::{Columns, LocatedRow, Row};

    /// A file that pyarrow wrote, or the same rows as jsonl.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/parquet").join(name)
    }

    fn rows(path: &Path, columns: &[&str]) -> Result<Vec<Row>> {
        let columns = Columns::parse(&columns.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())?;
        Ok(read_rows(path, &columns)?.into_iter().map(|LocatedRow { row, .. }| row).collect())
    }

    #[test]
    fn lists_of_structs_are_as_in_jsonl() {
        let expected = rows(&fixture("chat.jsonl"), &[]).unwrap();
        for compression in ["none", "snappy", "zstd"] {
            let found = rows(&fixture(&format!("chat_{compression}.parquet")), &[]).unwrap();
            assert_eq!(found, expected, "{compression}");
        }
    }

    #[test]
    fn columns_of_several_row_groups_are_read_by_their_own_names() {
        let columns = ["prompt=question", "completion=answer"];
        let found = rows(&fixture("questions.parquet"), &columns).unwrap();
        assert_eq!(found.len(), 300);
        assert_eq!(found, rows(&fixture("questions.jsonl"), &columns).unwrap());
    }

    #[test]
    fn errors_name_the_file_the_row_and_the_columns() {
        let path = fixture("questions.parquet");
        let error = rows(&path, &[]).unwrap_err().to_string();
        let start =
            format!("{}: found keys \"question\", \"answer\", \"score\"; a row needs", path.display());
        assert!(error.starts_with(&start), "{error}");
        let error = rows(&path, &["text=score"]).unwrap_err().to_string();
        assert_eq!(error, format!("{}: row 1: \"text\" must be a string, found a number", path.display()));
        let error = rows(&path, &["prompt=question", "completion=reply"]).unwrap_err().to_string();
        assert!(error.contains("row 1: has no \"reply\", which columns reads as completion"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let whole = fs::read(fixture("chat_snappy.parquet")).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            rows(&path, &[]).map_err(|error| error.to_string())
        };
        for end in (0..whole.len()).step_by(7) {
            let error = refused(&whole[..end]).unwrap_err();
            assert!(error.starts_with(&path.display().to_string()), "{error}");
        }
        // A changed byte may change a letter, or be noticed; it never ends the process.
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            if let Err(error) = refused(&bytes) {
                assert!(error.starts_with(&path.display().to_string()), "{error}");
            }
        }
    }
}
