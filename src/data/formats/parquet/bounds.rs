//! Bounds what a file expands to. Compression and dictionaries make gigabytes of a few hundred bytes, so that the
//! sizes of all rows are known before one is put together.

use std::fs::File;

use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{AsBytes, ByteArrayType, DataType, FixedLenByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};

use super::pages;
use crate::data::formats::collector::MAX_ROW_BYTES;

/// Bytes that any file may expand to, and that many times its own size on top of them.
const FREE_BYTES: u64 = 64 << 20;
const MAX_RATIO: u64 = 1000;

/// Bytes that a value and a row take at least.
const VALUE_BYTES: usize = 4;
const ROW_BYTES: u64 = 64;

/// Rows whose strings are held at once.
const ROWS_AT_ONCE: usize = 64;

/// Why a file is refused: the row, if it is one, and the reason.
pub(super) type Refused = (Option<usize>, String);

/// Checks the pages and rows of the columns for which `is_used` is true of their root's name. `file` is that of
/// `reader`.
///
/// # Errors
/// A row of more than [`MAX_ROW_BYTES`] bytes; a file that expands to too much; a file that cannot be read.
pub(super) fn check(
    file: &File,
    reader: &impl FileReader,
    is_used: impl Fn(&str) -> bool,
) -> Result<(), Refused> {
    let unreadable = |error: &dyn std::fmt::Display| (None, format!("cannot be read: {error}"));
    let size = file.metadata().map_err(|error| unreadable(&error))?.len();
    let limit = FREE_BYTES.saturating_add(size.saturating_mul(MAX_RATIO));
    let expands = || {
        let reason = format!(
            "the file expands from {size} to more than {limit} bytes, which no table of text does; \
             write it again without compression, or as jsonl"
        );
        (None, reason)
    };
    let (mut claimed, mut total, mut row_number) = (0_u64, 0_u64, 0);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| unreadable(&error))?;
        let mut rows = Vec::new();
        for (index, chunk) in group.metadata().columns().iter().enumerate() {
            if !chunk.column_path().parts().first().is_some_and(|name| is_used(name)) {
                continue;
            }
            let claims = pages::claims(file, chunk).map_err(|error| unreadable(&error))?;
            claimed = claimed.saturating_add(claims.bytes).saturating_add(claims.values * VALUE_BYTES as u64);
            let is_list = chunk.column_descr().max_rep_level() > 0;
            if claimed > limit || (is_list && claims.shared > limit) {
                return Err(expands());
            }
            let at_once = if claims.shared > 0 { 1 } else { ROWS_AT_ONCE };
            let sizes = Sizes { rows: &mut rows, total: &mut total, at_once, limit };
            match sizes.add(&*group, index).map_err(|error| unreadable(&error))? {
                Ok(()) => {}
                Err(None) => return Err(expands()),
                Err(Some(row)) => {
                    let reason = format!("the row is longer than {MAX_ROW_BYTES} bytes");
                    return Err((Some(row_number + row + 1), reason));
                }
            }
        }
        row_number += rows.len();
    }
    Ok(())
}

/// Sizes of the rows of a group.
struct Sizes<'a> {
    rows: &'a mut Vec<usize>,
    /// Bytes of all rows so far.
    total: &'a mut u64,
    /// Rows that are read at once.
    at_once: usize,
    limit: u64,
}

impl Sizes<'_> {
    /// Adds column number `index`. The inner error is a row that is too large, or `None` for all of them together.
    fn add(
        self,
        group: &dyn RowGroupReader,
        index: usize,
    ) -> Result<Result<(), Option<usize>>, ParquetError> {
        let reader = group.get_column_reader(index)?;
        let column = group.metadata().column(index);
        let max_definition = column.column_descr().max_def_level();
        match column.column_type() {
            Physical::BYTE_ARRAY => {
                self.read(get_typed_column_reader::<ByteArrayType>(reader), max_definition)
            }
            Physical::FIXED_LEN_BYTE_ARRAY => {
                self.read(get_typed_column_reader::<FixedLenByteArrayType>(reader), max_definition)
            }
            // Numbers, which the values that pages claim bound.
            _ => Ok(Ok(())),
        }
    }

    fn read<T: DataType>(
        self,
        mut reader: ColumnReaderImpl<T>,
        max_definition: i16,
    ) -> Result<Result<(), Option<usize>>, ParquetError> {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = 0;
        loop {
            definitions.clear();
            repetitions.clear();
            values.clear();
            let (read, ..) = reader.read_records(
                self.at_once,
                Some(&mut definitions),
                Some(&mut repetitions),
                &mut values,
            )?;
            if read == 0 {
                return Ok(Ok(()));
            }
            let rows = &mut *self.rows;
            rows.resize(rows.len().max(row + read), 0);
            *self.total += read as u64 * ROW_BYTES;
            let levels = definitions.len().max(repetitions.len()).max(values.len());
            let (mut at, mut sizes) = (row, values.iter().map(|value| value.as_bytes().len()));
            for level in 0..levels {
                let is_next = repetitions.get(level).is_none_or(|&level| level == 0);
                at += usize::from(level > 0 && is_next);
                let is_value = definitions.get(level).is_none_or(|&level| level == max_definition);
                let size = VALUE_BYTES + if is_value { sizes.next().unwrap_or(0) } else { 0 };
                let Some(sum) = rows.get_mut(at) else { break };
                *sum = sum.saturating_add(size);
                *self.total = self.total.saturating_add(size as u64);
                if *sum > MAX_ROW_BYTES {
                    return Ok(Err(Some(at)));
                }
            }
            if *self.total > self.limit {
                return Ok(Err(None));
            }
            row += read;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::ByteArray;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::Result;
    use crate::data::formats::read_rows;
    use crate::data::{Columns, Row};

    const MIB: usize = 1 << 20;

    /// Writes `cells` as the column `text`; a text that repeats is stored once.
    fn write(path: &Path, compression: Compression, cells: impl Iterator<Item = ByteArray>) {
        let schema = parse_message_type("message rows { required binary text (UTF8); }").unwrap();
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_page_size_limit(1 << 30)
            .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let cells: Vec<ByteArray> = cells.collect();
        column.typed::<ByteArrayType>().write_batch(&cells, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn read(compression: Compression, cells: impl Iterator<Item = ByteArray>) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, compression, cells);
        Ok(read_rows(&path, &Columns::default())?.into_iter().map(|located| located.row).collect())
    }

    fn text(bytes: usize) -> ByteArray {
        ByteArray::from("x".repeat(bytes).into_bytes())
    }

    fn zstd() -> Compression {
        Compression::ZSTD(ZstdLevel::default())
    }

    #[test]
    fn rows_have_the_limit_of_other_formats() {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd()] {
            let cells = [text(MAX_ROW_BYTES - 100), text(MAX_ROW_BYTES + 1)];
            let whole = read(compression, cells[..1].iter().cloned()).unwrap();
            assert!(matches!(&whole[0], Row::Text(text) if text.len() == MAX_ROW_BYTES - 100));
            let error = read(compression, cells.into_iter()).unwrap_err().to_string();
            assert!(error.ends_with("a.parquet: row 2: the row is longer than 16777216 bytes"), "{error}");
        }
    }

    #[test]
    fn many_rows_of_one_batch_are_told_apart() {
        let rows = read(Compression::UNCOMPRESSED, (0..60).map(|i| text(MIB + i))).unwrap();
        assert_eq!(rows.len(), 60);
        let sizes = rows.iter().map(|row| if let Row::Text(text) = row { text.len() } else { 0 });
        assert!(sizes.eq((0..60).map(|i| MIB + i)));
    }

    #[test]
    fn a_cell_of_a_hundred_million_bytes_is_refused_by_the_header_of_its_page() {
        let error = read(zstd(), std::iter::once(text(100_000_000))).unwrap_err().to_string();
        assert!(error.contains("a.parquet: the file expands from "), "{error}");
    }

    #[test]
    fn a_dictionary_cannot_make_gigabytes() {
        let cell = text(15 * MIB);
        let error = read(zstd(), std::iter::repeat_n(cell, 256)).unwrap_err().to_string();
        assert!(error.contains("a.parquet: the file expands from "), "{error}");
    }
}
