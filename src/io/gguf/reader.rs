//! Reading a file: its header at once, the bytes of its tensors when they are asked for.

use std::fmt::Display;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::input::{Input, Outcome};
use super::{ALIGNMENT, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, MAX_NAME, Metadata, TensorType};
use crate::{Error, Result, files};

/// Largest numbers of values and of tensors; real files have fewer than a hundred and a few thousand.
const MAX_ENTRIES: u64 = 1 << 16;

/// Longest key of a value in bytes, by the format.
const MAX_KEY: u64 = 65_535;

/// Largest alignment in bytes that is believed.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Where a tensor lies, and how its numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How numbers are stored.
    pub kind: TensorType,
    /// Sizes, outermost first as in transformers.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub start: u64,
    /// Number of bytes.
    pub bytes: usize,
}

impl TensorInfo {
    /// Numbers in a row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.columns() / self.kind.block_size() * self.kind.block_bytes()
    }
}

/// An open file, whose header has been checked: every tensor lies within it, and none in another one.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    tensors: IndexMap<String, TensorInfo>,
}

impl Reader {
    /// Opens the file `path` and reads its header.
    ///
    /// # Errors
    /// A file that is not in this format, or damaged, by key or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let copy = file.try_clone().map_err(Error::io("read", path))?;
        let (metadata, tensors) = header(copy, length).map_err(|why| damaged(path, &why))?;
        Ok(Self { path: path.to_owned(), file, metadata, tensors })
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The values of the file.
    #[must_use]
    pub const fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Names and places of all tensors, in the order of the file.
    #[must_use]
    pub const fn tensors(&self) -> &IndexMap<String, TensorInfo> {
        &self.tensors
    }

    /// Reads bytes of the file from `start` on.
    ///
    /// # Errors
    /// A file that became shorter.
    pub fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(bytes));
        read.map_err(Error::io("read", &self.path))
    }

    /// An error about this file.
    #[must_use]
    pub fn error(&self, why: &dyn Display) -> Error {
        damaged(&self.path, why)
    }
}

fn damaged(path: &Path, why: &dyn Display) -> Error {
    Error::ModelLoading(format!("{}: {why}", path.display()))
}

fn header(file: File, length: u64) -> Outcome<(Metadata, IndexMap<String, TensorInfo>)> {
    let mut input = Input::new(file, length);
    let magic = input.u32().map_err(|_| "not a GGUF file: shorter than 4 bytes".to_owned())?.to_le_bytes();
    if magic != MAGIC {
        return Err(format!("not a GGUF file: it begins with {magic:?}, expected \"GGUF\""));
    }
    match input.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err("its numbers are big-endian; convert it to little-endian".to_owned());
        }
        version => return Err(format!("GGUF version {version}, expected 2 or 3: convert the model again")),
    }
    let (tensors, values) = (input.u64()?, input.u64()?);
    for (what, count) in [("tensors", tensors), ("values", values)] {
        if count > MAX_ENTRIES {
            return Err(format!("it claims {count} {what}, expected at most {MAX_ENTRIES}"));
        }
    }
    let mut metadata = Metadata::default();
    for number in 0..values {
        let key = input.string(MAX_KEY).map_err(|why| format!("key of value {number}: {why}"))?;
        let named = |why: String| format!("\"{key}\" {why}");
        let kind = input.u32().map_err(named)?;
        let value = input.value(kind).map_err(named)?;
        if metadata.get(&key).is_some() {
            return Err(named("stands there twice".to_owned()));
        }
        metadata.insert(key, value);
    }
    let mut infos = IndexMap::new();
    for number in 0..tensors {
        let name = input.string(MAX_NAME as u64).map_err(|why| format!("name of tensor {number}: {why}"))?;
        let info = tensor(&mut input).map_err(|why| format!("tensor \"{name}\": {why}"))?;
        if infos.contains_key(&name) {
            return Err(format!("tensor \"{name}\" stands there twice"));
        }
        infos.insert(name, info);
    }
    place(&mut infos, &metadata, input.position(), length)?;
    Ok((metadata, infos))
}

/// Reads what the header tells about a tensor; its `start` is relative to the first byte of all tensors.
fn tensor(input: &mut Input) -> Outcome<TensorInfo> {
    let dimensions = input.u32()? as usize;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(format!("{dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"));
    }
    let sizes: Vec<u64> = (0..dimensions).map(|_| input.u64()).collect::<Outcome<_>>()?;
    let (id, start) = (input.u32()?, input.u64()?);
    let kind = TensorType::from_id(id).ok_or_else(|| {
        let known = TensorType::ALL.map(|kind| kind.to_string()).join(", ");
        format!("it is stored in the number format {id}, which is not read; those are {known}")
    })?;
    if sizes.iter().any(|&size| size == 0 || i32::try_from(size).is_err()) {
        return Err(format!("sizes {sizes:?}, expected 1 to {}", i32::MAX));
    }
    if !sizes[0].is_multiple_of(kind.block_size() as u64) {
        return Err(format!("rows of {} numbers are not whole blocks of {kind}", sizes[0]));
    }
    let numbers = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    let bytes = numbers
        .map(|numbers| numbers / kind.block_size() as u64)
        .and_then(|blocks| blocks.checked_mul(kind.block_bytes() as u64))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| format!("sizes {sizes:?} are too many numbers"))?;
    Ok(TensorInfo { kind, shape: sizes.iter().rev().map(|&size| size as usize).collect(), start, bytes })
}

/// Makes the places of tensors absolute; `end` is that of the header.
fn place(
    infos: &mut IndexMap<String, TensorInfo>,
    metadata: &Metadata,
    end: u64,
    length: u64,
) -> Outcome<()> {
    let alignment = metadata.count(ALIGNMENT).map_err(|error| error.to_string())?;
    let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(format!(
            "\"{ALIGNMENT}\" is {alignment}, expected a power of two of at most {MAX_ALIGNMENT}"
        ));
    }
    let first = end.next_multiple_of(alignment);
    for (name, info) in infos.iter_mut() {
        if !info.start.is_multiple_of(alignment) {
            return Err(format!(
                "tensor \"{name}\": its offset {} is not a multiple of {alignment}",
                info.start
            ));
        }
        let stop = info.start.checked_add(first).and_then(|start| start.checked_add(info.bytes as u64));
        if stop.is_none_or(|stop| stop > length) {
            return Err(format!(
                "tensor \"{name}\": {} bytes at offset {} are not within the file of {length} bytes; is it truncated?",
                info.bytes, info.start
            ));
        }
        info.start += first;
    }
    let mut places: Vec<(&String, &TensorInfo)> = infos.iter().collect();
    places.sort_by_key(|(_, info)| info.start);
    let overlap = places.windows(2).find(|pair| pair[0].1.start + pair[0].1.bytes as u64 > pair[1].1.start);
    match overlap {
        Some(pair) => Err(format!("tensors \"{}\" and \"{}\" overlap", pair[0].0, pair[1].0)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one value and one tensor of 64 numbers in `Q8_0`.
    fn file() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend([1_u64, 1].map(u64::to_le_bytes).concat());
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.bytes());
        };
        text(&mut bytes, "a.b");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        text(&mut bytes, "w");
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend([32_u64, 2].map(u64::to_le_bytes).concat());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32) + 68, 1);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Reader> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        Reader::open(&path)
    }

    #[test]
    fn a_tensor_has_its_place() {
        let mut reader = open(&file()).unwrap();
        let info = reader.tensors()["w"].clone();
        assert_eq!((info.kind, &info.shape[..], info.bytes), (TensorType::Q8_0, &[2, 32][..], 68));
        assert_eq!((info.rows(), info.columns(), info.row_bytes()), (2, 32, 34));
        let mut bytes = [0; 68];
        reader.read(info.start, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 68]);
        assert_eq!(reader.metadata().counts("a.b").unwrap(), Some(vec![7]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = file();
            bytes[at..at + value.len()].copy_from_slice(value);
            open(&bytes).unwrap_err().to_string()
        };
        let (value, tensor) = (35, 64);
        for (at, number, wide, reason) in [
            (4, 1_u64, false, "GGUF version 1, expected 2 or 3"),
            (8, 1 << 40, true, "it claims 1099511627776 tensors, expected at most 65536"),
            (value, 77, false, "\"a.b\" has the unknown type 77"),
            (value + 4, 9, false, "\"a.b\" is a list of lists"),
            (value + 8, 1 << 62, true, "\"a.b\" its list claims 4611686018427387904 entries, but only"),
            (tensor, 9, false, "tensor \"w\": 9 dimensions, expected 1 to 4"),
            (tensor + 4, 33, true, "tensor \"w\": rows of 33 numbers are not whole blocks of Q8_0"),
            (tensor + 12, 0, true, "tensor \"w\": sizes [32, 0], expected 1 to 2147483647"),
            (tensor + 20, 23, false, "tensor \"w\": it is stored in the number format 23, which is not read"),
            (tensor + 24, 31, true, "tensor \"w\": its offset 31 is not a multiple of 32"),
            (
                tensor + 24,
                32,
                true,
                "tensor \"w\": 68 bytes at offset 32 are not within the file of 164 bytes",
            ),
        ] {
            let width = if wide { 8 } else { 4 };
            let message = with(at, &number.to_le_bytes()[..width]);
            assert!(message.contains("m.gguf: ") && message.contains(reason), "{message}");
        }
        for length in [0, 3, 20, 60, 100] {
            let message = open(&file()[..length]).unwrap_err().to_string();
            assert!(message.contains("m.gguf: "), "{message}");
        }
    }
}
