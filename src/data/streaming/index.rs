//! Random access to jsonl files: one pass validates all rows and records their offsets.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::data::formats::TOKENS_EXTENSION;
use crate::data::formats::collector::MAX_ROW_BYTES;
use crate::data::formats::jsonl::for_each_line;
use crate::data::rows::{Columns, LocatedRow, Position, fields};
use crate::data::splits::read::TrainingRowReader;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::{Error, Result, files as reading};

/// Number of bits of a [`RowOffset`] that hold the byte offset.
const BYTE_BITS: u32 = 48;

/// Number of rows between two checks for interruption.
const ROWS_PER_POLL: usize = 1 << 12;

/// Index of a file and byte offset of a row in it. Eight bytes, because there may be billions of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowOffset(u64);

impl RowOffset {
    const fn file(self) -> usize {
        (self.0 >> BYTE_BITS) as usize
    }

    const fn byte(self) -> u64 {
        self.0 & ((1 << BYTE_BITS) - 1)
    }

    /// For a [digest](crate::rng::digest).
    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }
}

/// The indexed files.
#[derive(Debug)]
pub(super) struct RowFiles {
    files: Vec<Arc<Path>>,
    columns: Columns,
    digest: u64,
}

impl RowFiles {
    /// A digest of the content of all files.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The file of a row.
    pub(super) fn path(&self, offset: RowOffset) -> &Path {
        &self.files[offset.file()]
    }

    /// A reader of rows.
    pub(super) fn reader(&self) -> RowReader<'_> {
        RowReader { files: self, open: self.files.iter().map(|_| None).collect() }
    }
}

/// Reads rows by their offset. Files are opened once.
pub(super) struct RowReader<'a> {
    files: &'a RowFiles,
    open: Vec<Option<BufReader<File>>>,
}

impl RowReader<'_> {
    /// Reads the row at `offset`.
    ///
    /// # Errors
    /// [`Error::Dataset`] if the file has changed so that there is no valid row; [`Error::Io`].
    pub(super) fn read(&mut self, offset: RowOffset) -> Result<LocatedRow> {
        let path = &self.files.files[offset.file()];
        let file = match &mut self.open[offset.file()] {
            Some(file) => file,
            closed => closed.insert(BufReader::new(reading::open(path).map_err(Error::io("read", path))?)),
        };
        let mut line = Vec::new();
        file.seek(SeekFrom::Start(offset.byte()))
            .and_then(|_| file.take(MAX_ROW_BYTES as u64).read_until(b'\n', &mut line))
            .map_err(Error::io("read", path))?;
        LocatedRow::from_json(
            fields::parse_json(&line),
            &self.files.columns,
            path,
            Position::Byte(offset.byte()),
        )
    }
}

/// Indexes files, reporting progress.
pub(super) struct Indexer<'a> {
    files: RowFiles,
    observer: &'a mut dyn Observer,
}

impl<'a> Indexer<'a> {
    /// An indexer without files.
    pub(super) fn new(columns: Columns, observer: &'a mut dyn Observer) -> Self {
        Self { files: RowFiles { files: Vec::new(), columns, digest: 0 }, observer }
    }

    /// Returns the indexed files.
    pub(super) fn finish(self) -> RowFiles {
        self.files
    }
}

impl TrainingRowReader for Indexer<'_> {
    type Row = RowOffset;

    fn read(&mut self, file: &Path) -> Result<Vec<RowOffset>> {
        let refuse = |reason: &str| Err(Error::Dataset(format!("{}: {reason}", file.display())));
        let extension = file.extension().unwrap_or_default().to_ascii_lowercase();
        if ["json", "csv", "tsv", "parquet", TOKENS_EXTENSION].iter().any(|other| extension == *other) {
            return refuse(
                "streaming reads jsonl only, one JSON object per line; convert the file, or load it whole",
            );
        }
        let file_index = self.files.files.len() as u64;
        if file_index >> (u64::BITS - BYTE_BITS) > 0 {
            return refuse("too many files for one run");
        }
        let open = reading::open(file).map_err(Error::io("read", file))?;
        let total = open.metadata().map_err(Error::io("read", file))?.len();
        if total >> BYTE_BITS > 0 {
            return refuse("the file is too large");
        }
        let path: Arc<Path> = Arc::from(file);
        let Self { files: RowFiles { files, columns, digest: digest_so_far }, observer } = self;
        let tenths = |byte: u64| byte * 10 / total.max(1);
        let (mut rows, mut reported) = (Vec::new(), 0);
        for_each_line(BufReader::with_capacity(1 << 20, open), file, MAX_ROW_BYTES, |line| {
            LocatedRow::from_json(fields::parse_json(line.content), columns, &path, line.position)?;
            rows.push(RowOffset(file_index << BYTE_BITS | line.offset));
            *digest_so_far = digest(words(line.content).chain([*digest_so_far]));
            let byte = line.offset + line.content.len() as u64;
            let next = if tenths(byte) > reported {
                reported = tenths(byte);
                let stage = format!("index {}", file.display());
                observer.on(&Event::Progress { stage, done: byte, total })
            } else if rows.len() % ROWS_PER_POLL == 0 {
                observer.poll()
            } else {
                ControlFlow::Continue(())
            };
            if next == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
        })?;
        if rows.is_empty() {
            return refuse("the file holds no rows");
        }
        files.push(path);
        Ok(rows)
    }

    fn load(&mut self, rows: Vec<RowOffset>) -> Result<Vec<LocatedRow>> {
        let mut reader = self.files.reader();
        rows.into_iter().map(|offset| reader.read(offset)).collect()
    }
}

/// `bytes` as little-endian words, the last one padded with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>().into_iter()
}
