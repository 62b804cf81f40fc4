//! Rows of jsonl files that stay on disk: one pass checks all of them and remembers where each begins.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::data::formats::collector::LONGEST_ROW;
use crate::data::formats::jsonl::each;
use crate::data::rows::{Columns, Located, Place, fields};
use crate::data::splits::read::TrainingRows;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::{Error, Result};

/// Bits of an [`Address`] that hold the byte.
const BYTE_BITS: u32 = 48;

/// Rows between two looks at whether the work shall stop.
const POLLED: usize = 1 << 12;

/// Where a row begins: the number of its file, then the byte in it. Eight bytes, because there may be billions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Address(u64);

impl Address {
    const fn file(self) -> usize {
        (self.0 >> BYTE_BITS) as usize
    }

    const fn byte(self) -> u64 {
        self.0 & ((1 << BYTE_BITS) - 1)
    }

    /// For a [digest](crate::rng::digest).
    pub(in crate::data) const fn number(self) -> u64 {
        self.0
    }
}

/// Files of rows.
#[derive(Debug)]
pub(in crate::data) struct Lines {
    files: Vec<Arc<Path>>,
    columns: Columns,
    digest: u64,
}

impl Lines {
    /// A number that depends on the content of all files.
    pub(in crate::data) const fn digest(&self) -> u64 {
        self.digest
    }

    /// The path of the file in which a row stands.
    pub(in crate::data) fn path(&self, address: Address) -> &Path {
        &self.files[address.file()]
    }

    /// What reads rows.
    pub(in crate::data) fn reader(&self) -> LineReader<'_> {
        LineReader { lines: self, open: self.files.iter().map(|_| None).collect() }
    }
}

/// Files that are open.
pub(in crate::data) struct LineReader<'a> {
    lines: &'a Lines,
    open: Vec<Option<BufReader<File>>>,
}

impl LineReader<'_> {
    /// The row at `address`.
    ///
    /// # Errors
    /// A file that has changed so that there is no row, or cannot be read.
    pub(in crate::data) fn read(&mut self, address: Address) -> Result<Located> {
        let path = &self.lines.files[address.file()];
        let file = match &mut self.open[address.file()] {
            Some(file) => file,
            closed => closed.insert(BufReader::new(File::open(path).map_err(Error::io("read", path))?)),
        };
        let mut line = Vec::new();
        file.seek(SeekFrom::Start(address.byte()))
            .and_then(|_| file.take(LONGEST_ROW as u64).read_until(b'\n', &mut line))
            .map_err(Error::io("read", path))?;
        Located::of(fields::json(&line), &self.lines.columns, path, Place::Byte(address.byte()))
    }
}

/// Reads files once from beginning to end.
pub(in crate::data) struct Indexer<'a> {
    lines: Lines,
    observer: &'a mut dyn Observer,
}

impl<'a> Indexer<'a> {
    /// Knows of no file yet.
    pub(in crate::data) fn new(columns: Columns, observer: &'a mut dyn Observer) -> Self {
        Self { lines: Lines { files: Vec::new(), columns, digest: 0 }, observer }
    }

    /// What it has read.
    pub(in crate::data) fn finish(self) -> Lines {
        self.lines
    }
}

impl TrainingRows for Indexer<'_> {
    type Row = Address;

    fn read(&mut self, file: &Path) -> Result<Vec<Address>> {
        let refuse = |reason: &str| Err(Error::Dataset(format!("{}: {reason}", file.display())));
        let ending = file.extension().unwrap_or_default().to_ascii_lowercase();
        if ["json", "csv", "tsv", "parquet"].iter().any(|other| ending == *other) {
            return refuse(
                "streaming reads jsonl only, one JSON object per line; convert the file, or load it whole",
            );
        }
        let number = self.lines.files.len() as u64;
        if number >> (u64::BITS - BYTE_BITS) > 0 {
            return refuse("too many files for one run");
        }
        let open = File::open(file).map_err(Error::io("read", file))?;
        let total = open.metadata().map_err(Error::io("read", file))?.len();
        if total >> BYTE_BITS > 0 {
            return refuse("the file is too large");
        }
        let path: Arc<Path> = Arc::from(file);
        let Self { lines: Lines { files, columns, digest: seen }, observer } = self;
        let tenth = |byte: u64| byte * 10 / total.max(1);
        let (mut rows, mut told) = (Vec::new(), 0);
        each(BufReader::with_capacity(1 << 20, open), file, LONGEST_ROW, |line| {
            Located::of(fields::json(line.content), columns, &path, line.place)?;
            rows.push(Address(number << BYTE_BITS | line.offset));
            *seen = digest(words(line.content).chain([*seen]));
            let byte = line.offset + line.content.len() as u64;
            let next = if tenth(byte) > told {
                told = tenth(byte);
                observer.on(&Event::Indexed { path: file.to_owned(), bytes: byte, total })
            } else if rows.len() % POLLED == 0 {
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

    fn load(&mut self, rows: Vec<Address>) -> Result<Vec<Located>> {
        let mut reader = self.lines.reader();
        rows.into_iter().map(|address| reader.read(address)).collect()
    }
}

/// `bytes` as numbers, the last one filled up with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (whole, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>().into_iter()
}
