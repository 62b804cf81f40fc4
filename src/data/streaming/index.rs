//! Rows of jsonl files that stay on disk: one pass checks all of them and remembers where each begins.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::data::formats::collector::MAX_ROW_BYTES;
use crate::data::formats::jsonl::for_each_line;
use crate::data::rows::{Columns, LocatedRow, Position, fields};
use crate::data::splits::read::TrainingRowReader;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::{Error, Result};

/// Bits of an [`RowOffset`] that hold the byte.
const BYTE_BITS: u32 = 48;

/// Rows between two looks at whether the work shall stop.
const ROWS_PER_POLL: usize = 1 << 12;

/// Where a row begins: the number of its file, then the byte in it. Eight bytes, because there may be billions of them.
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

/// Files of rows.
#[derive(Debug)]
pub(super) struct RowFiles {
    files: Vec<Arc<Path>>,
    columns: Columns,
    digest: u64,
}

impl RowFiles {
    /// A number that depends on the content of all files.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The path of the file in which a row stands.
    pub(super) fn path(&self, offset: RowOffset) -> &Path {
        &self.files[offset.file()]
    }

    /// What reads rows.
    pub(super) fn reader(&self) -> RowReader<'_> {
        RowReader { files: self, open: self.files.iter().map(|_| None).collect() }
    }
}

/// Files that are open.
pub(super) struct RowReader<'a> {
    files: &'a RowFiles,
    open: Vec<Option<BufReader<File>>>,
}

impl RowReader<'_> {
    /// The row at `offset`.
    ///
    /// # Errors
    /// A file that has changed so that there is no row, or cannot be read.
    pub(super) fn read(&mut self, offset: RowOffset) -> Result<LocatedRow> {
        let path = &self.files.files[offset.file()];
        let file = match &mut self.open[offset.file()] {
            Some(file) => file,
            closed => closed.insert(BufReader::new(File::open(path).map_err(Error::io("read", path))?)),
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

/// Reads files once from beginning to end.
pub(super) struct Indexer<'a> {
    files: RowFiles,
    observer: &'a mut dyn Observer,
}

impl<'a> Indexer<'a> {
    /// Knows of no file yet.
    pub(super) fn new(columns: Columns, observer: &'a mut dyn Observer) -> Self {
        Self { files: RowFiles { files: Vec::new(), columns, digest: 0 }, observer }
    }

    /// What it has read.
    pub(super) fn finish(self) -> RowFiles {
        self.files
    }
}

impl TrainingRowReader for Indexer<'_> {
    type Row = RowOffset;

    fn read(&mut self, file: &Path) -> Result<Vec<RowOffset>> {
        let refuse = |reason: &str| Err(Error::Dataset(format!("{}: {reason}", file.display())));
        let extension = file.extension().unwrap_or_default().to_ascii_lowercase();
        if ["json", "csv", "tsv", "parquet"].iter().any(|other| extension == *other) {
            return refuse(
                "streaming reads jsonl only, one JSON object per line; convert the file, or load it whole",
            );
        }
        let file_index = self.files.files.len() as u64;
        if file_index >> (u64::BITS - BYTE_BITS) > 0 {
            return refuse("too many files for one run");
        }
        let open = File::open(file).map_err(Error::io("read", file))?;
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
                observer.on(&Event::Indexed { path: file.to_owned(), bytes: byte, total })
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

/// `bytes` as numbers, the last one filled up with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>().into_iter()
}
