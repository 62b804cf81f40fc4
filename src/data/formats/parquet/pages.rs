//! The headers of pages, read before the pages themselves: what they claim is allocated.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};

use parquet::file::metadata::ColumnChunkMetaData;

/// Type of the encoding of strings that share their beginnings with the one before.
const DELTA_BYTE_ARRAY: i64 = 7;

/// What the pages of a column chunk claim to hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claims {
    /// Bytes of all pages when decompressed.
    pub(super) bytes: u64,
    /// Values of all pages.
    pub(super) values: u64,
    /// Bytes that strings may take which share their beginnings.
    pub(super) shared: u64,
}

/// Reads the headers of all pages of `chunk`, a part of `file`.
///
/// # Errors
/// Errors of the system; a place outside the file; a header that is not one.
pub(super) fn claims(file: &File, chunk: &ColumnChunkMetaData) -> io::Result<Claims> {
    let first = chunk.dictionary_page_offset().filter(|&at| at > 0).unwrap_or(chunk.data_page_offset());
    let start = u64::try_from(first.min(chunk.data_page_offset())).map_err(|_| damaged())?;
    let length = u64::try_from(chunk.compressed_size()).map_err(|_| damaged())?;
    let end = start.checked_add(length).filter(|&end| end <= file.metadata().map_or(0, |file| file.len()));
    let end = end.ok_or_else(damaged)?;
    let mut headers = Headers(BufReader::new(file.try_clone()?));
    headers.0.seek(SeekFrom::Start(start))?;
    let mut claims = Claims::default();
    while headers.0.stream_position()? < end {
        let mut fields = [0; 3];
        headers.structure(0, &mut fields)?;
        let [uncompressed, compressed, values] =
            fields.map(|field: i64| u64::try_from(field & !ENCODED).unwrap_or(u64::from(u32::MAX)));
        claims.bytes = claims.bytes.saturating_add(uncompressed);
        claims.values = claims.values.saturating_add(values);
        if fields[2] & ENCODED != 0 {
            claims.shared = claims.shared.max(values.saturating_mul(uncompressed));
        }
        headers.skip(compressed)?;
    }
    Ok(claims)
}

/// Marks the number of values of a page in [`DELTA_BYTE_ARRAY`].
const ENCODED: i64 = 1 << 40;

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the header of a page is damaged")
}

/// Reader of [Thrift's compact protocol](https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
struct Headers(BufReader<File>);

impl Headers {
    /// Reads a structure. `fields` of the outer one, a `PageHeader`, become the decompressed and the compressed size
    /// and the number of values.
    fn structure(&mut self, depth: u32, fields: &mut [i64; 3]) -> io::Result<()> {
        let mut id = 0;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(());
            }
            id = if byte >> 4 == 0 { self.integer()? } else { id + i64::from(byte >> 4) };
            match (depth, id, byte & 15) {
                (0, 2 | 3, 5) => fields[id as usize - 2] = self.integer()?,
                // The headers of data pages, of dictionaries, and of data pages of version 2.
                (0, 5 | 7 | 8, 12) => self.page(fields)?,
                (_, _, kind) => self.value(kind, depth)?,
            }
        }
    }

    /// Reads the header of one kind of page, which begins with the number of values.
    fn page(&mut self, fields: &mut [i64; 3]) -> io::Result<()> {
        let mut id = 0;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(());
            }
            id = if byte >> 4 == 0 { self.integer()? } else { id + i64::from(byte >> 4) };
            match (id, byte & 15) {
                (1, 5) => fields[2] |= self.integer()?,
                // The encoding of a data page is its field 2, in version 2 its field 4.
                (2 | 4, 5) => {
                    if self.integer()? == DELTA_BYTE_ARRAY {
                        fields[2] |= ENCODED;
                    }
                }
                (_, kind) => self.value(kind, 1)?,
            }
        }
    }

    /// Skips a value of the type `kind`.
    fn value(&mut self, kind: u8, depth: u32) -> io::Result<()> {
        if depth > 8 {
            return Err(damaged());
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.integer().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            12 => self.structure(depth + 1, &mut [0; 3]),
            // Page headers have neither lists nor maps.
            _ => Err(damaged()),
        }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.0.seek_relative(i64::try_from(bytes).map_err(|_| damaged())?)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).map_err(|_| damaged())?;
        Ok(byte[0])
    }

    fn unsigned(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(damaged())
    }

    /// A signed number in zigzag encoding.
    fn integer(&mut self) -> io::Result<i64> {
        let number = self.unsigned()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}
