//! Writing a file, tensor by tensor.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{ALIGNMENT, Array, DEFAULT_ALIGNMENT, MAGIC, MAX_NAME, Metadata, TensorType, VERSION, Value};
use crate::io::atomic;
use crate::{Error, Result};

/// A tensor of a file that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Name, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Sizes, outermost first as in the checkpoint.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: TensorType,
}

impl NewTensor {
    /// Bytes of its data, without padding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product::<usize>() / self.kind.block_size() * self.kind.block_bytes()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Atomically replaces the file `path` by one with `metadata` and `tensors`; `data` returns the bytes of the tensor of an
/// index, and is called in their order.
///
/// # Errors
/// Names that are too long; data of another size than declared; errors of `data`; no space or no permission. Nothing is left
/// behind.
pub fn write(
    path: &Path,
    metadata: &Metadata,
    tensors: &[NewTensor],
    data: &mut dyn FnMut(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    if let Some(tensor) = tensors.iter().find(|tensor| tensor.name.len() > MAX_NAME) {
        return Err(Error::Config(format!(
            "the tensor name \"{}\" is longer than the {MAX_NAME} bytes that llama.cpp reads",
            tensor.name
        )));
    }
    let alignment = metadata.count(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT) as usize;
    let mut header = Vec::new();
    put_header(&mut header, metadata, tensors, alignment);
    let mut failed = None;
    let outcome = atomic::write(path, |file| {
        put_all(file, &header, tensors, alignment, &mut |index| {
            data(index).map_err(|error| {
                failed = Some(error);
                io::Error::other("no data")
            })
        })
    });
    // What `data` says is the cause.
    failed.map_or(outcome, Err)
}

fn put_all(
    file: &mut File,
    header: &[u8],
    tensors: &[NewTensor],
    alignment: usize,
    data: &mut dyn FnMut(usize) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(header)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = data(index)?;
        if bytes.len() != tensor.len() {
            let (is, expected) = (bytes.len(), tensor.len());
            return Err(io::Error::other(format!("{} has {is} bytes, expected {expected}", tensor.name)));
        }
        file.write_all(&bytes)?;
        file.write_all(&vec![0; bytes.len().next_multiple_of(alignment) - bytes.len()])?;
    }
    file.flush()
}

/// Everything before the data of the first tensor, padding included.
fn put_header(out: &mut Vec<u8>, metadata: &Metadata, tensors: &[NewTensor], alignment: usize) {
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.0.len() as u64).to_le_bytes());
    for (key, value) in &metadata.0 {
        put_string(out, key);
        put_value(out, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_string(out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for &size in tensor.shape.iter().rev() {
            out.extend((size as u64).to_le_bytes());
        }
        out.extend(tensor.kind.id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.len().next_multiple_of(alignment);
    }
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The type of a value and the value itself.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |id: u32, bytes: &[u8]| {
        out.extend(id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(x) => put(0, &x.to_le_bytes()),
        Value::I8(x) => put(1, &x.to_le_bytes()),
        Value::U16(x) => put(2, &x.to_le_bytes()),
        Value::I16(x) => put(3, &x.to_le_bytes()),
        Value::U32(x) => put(4, &x.to_le_bytes()),
        Value::I32(x) => put(5, &x.to_le_bytes()),
        Value::F32(x) => put(6, &x.to_le_bytes()),
        Value::Bool(x) => put(7, &[u8::from(*x)]),
        Value::String(text) => {
            put(8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
        Value::U64(x) => put(10, &x.to_le_bytes()),
        Value::I64(x) => put(11, &x.to_le_bytes()),
        Value::F64(x) => put(12, &x.to_le_bytes()),
    }
}

/// The type of the items, their number and the items.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put<T: Copy, const N: usize>(out: &mut Vec<u8>, id: u32, items: &[T], bytes: impl Fn(T) -> [u8; N]) {
        out.extend(id.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        out.extend(items.iter().flat_map(|&item| bytes(item)));
    }
    match array {
        Array::U8(items) => put(out, 0, items, u8::to_le_bytes),
        Array::I8(items) => put(out, 1, items, i8::to_le_bytes),
        Array::U16(items) => put(out, 2, items, u16::to_le_bytes),
        Array::I16(items) => put(out, 3, items, i16::to_le_bytes),
        Array::U32(items) => put(out, 4, items, u32::to_le_bytes),
        Array::I32(items) => put(out, 5, items, i32::to_le_bytes),
        Array::F32(items) => put(out, 6, items, f32::to_le_bytes),
        Array::Bool(items) => put(out, 7, items, |item| [u8::from(item)]),
        Array::String(strings) => {
            out.extend(8_u32.to_le_bytes());
            out.extend((strings.len() as u64).to_le_bytes());
            strings.iter().for_each(|text| put_string(out, text));
        }
        Array::U64(items) => put(out, 10, items, u64::to_le_bytes),
        Array::I64(items) => put(out, 11, items, i64::to_le_bytes),
        Array::F64(items) => put(out, 12, items, f64::to_le_bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tensor(name: &str, shape: &[usize]) -> NewTensor {
        NewTensor { name: name.to_owned(), shape: shape.to_vec(), kind: TensorType::F32 }
    }

    #[test]
    fn the_layout_is_that_of_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let mut metadata = Metadata::default();
        metadata.insert("k", Value::U32(7));
        let tensors = [tensor("a", &[1]), tensor("b", &[2, 3])];
        write(&path, &metadata, &tensors, &mut |index| Ok(vec![index as u8 + 1; tensors[index].len()]))
            .unwrap();
        let mut expected = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x01\0\0\0\0\0\0\0k\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0a\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        // The innermost size first, and behind 32 bytes.
        expected.extend(
            b"\x01\0\0\0\0\0\0\0b\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0",
        );
        expected.resize(expected.len().next_multiple_of(32), 0);
        expected.extend([1; 4]);
        expected.resize(expected.len().next_multiple_of(32), 0);
        expected.extend([2; 24]);
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        fs::write(&path, "old").unwrap();
        let tensors = [tensor("a", &[1 << 20]), tensor("b", &[1])];
        let error = write(&path, &Metadata::default(), &tensors, &mut |index| match index {
            0 => Ok(vec![0; 4 << 20]),
            _ => Err(Error::Interrupted),
        });
        assert!(matches!(error, Err(Error::Interrupted)), "{error:?}");
        let error = write(&path, &Metadata::default(), &tensors, &mut |_| Ok(vec![0; 4 << 20])).unwrap_err();
        assert!(error.to_string().contains("b has 4194304 bytes, expected 4"), "{error}");
        let error = write(&path, &Metadata::default(), &[tensor(&"x".repeat(64), &[1])], &mut |_| Ok(vec![]));
        assert!(error.unwrap_err().to_string().contains("longer than the 63 bytes"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
