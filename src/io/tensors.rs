//! Named tensors in a [safetensors](https://github.com/huggingface/safetensors) file.
//!
//! Files are not trusted: the header is bounded in size and checked against the length of the file before
//! anything is allocated, and tensors are read one at a time.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write as _};
use std::path::Path;

use mlx_rs::{Array, Dtype};
use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};

use super::atomic;
use crate::params::Tensors;
use crate::{Error, Result, files, kernels};

/// Largest header that is read, in bytes; the format itself allows 100 MB.
const MAX_HEADER: u64 = 100_000_000;

/// Reads all tensors of the file `path`.
///
/// # Errors
/// A missing or truncated file, one that is not a safetensors file, or a dtype that MLX does not support.
pub fn read(path: &Path) -> Result<Tensors> {
    Reader::open(path)?.collect()
}

/// Iterator over the tensors of a file, largest first: while a tensor is read, its bytes are held twice,
/// which matters least before the other tensors are in memory.
pub struct Reader<'a> {
    path: &'a Path,
    file: File,
    /// Offset of the tensor data in the file.
    start: u64,
    metadata: Metadata,
    /// Tensors not yet read, smallest first.
    names: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Opens the file `path` and checks its header.
    ///
    /// # Errors
    /// A missing or truncated file, or one that is not a safetensors file.
    pub fn open(path: &'a Path) -> Result<Self> {
        Self::open_small(path, MAX_HEADER)
    }

    /// As [`open`](Self::open), of a file whose header has at most `max_header` bytes.
    ///
    /// # Errors
    /// Those of `open`; a larger header.
    pub fn open_small(path: &'a Path, max_header: u64) -> Result<Self> {
        let mut file = files::open(path).map_err(|error| broken(path, &error))?;
        let length = file.metadata().map_err(|error| broken(path, &error))?.len();
        let (start, metadata) = header(&mut file, length, max_header).map_err(|why| broken(path, &why))?;
        let mut names = metadata.offset_keys();
        let len =
            |name: &String| metadata.info(name).map_or(0, |info| info.data_offsets.1 - info.data_offsets.0);
        names.sort_by_cached_key(len);
        Ok(Self { path, file, start, metadata, names })
    }

    /// Skips the tensors for which `is_read` returns false.
    pub fn retain(&mut self, is_read: impl Fn(&str) -> bool) {
        self.names.retain(|name| is_read(name));
    }

    /// The text under `key` in the header.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        Some(self.metadata.metadata().as_ref()?.get(key)?.as_str())
    }

    /// Names, dtypes and sizes of the tensors that have not been read.
    pub fn contents(&self) -> impl Iterator<Item = (&str, safetensors::Dtype, usize)> {
        self.names.iter().filter_map(|name| {
            let info = self.metadata.info(name)?;
            Some((name.as_str(), info.dtype, info.shape.iter().product()))
        })
    }

    /// Names and shapes of the tensors that have not been read.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.names.iter().filter_map(|name| Some((name.as_str(), self.metadata.info(name)?.shape.as_slice())))
    }

    fn read(&mut self, name: &str) -> Result<Array> {
        let broken = |why: &dyn Display| broken(self.path, &format!("tensor \"{name}\": {why}"));
        let info = self.metadata.info(name).ok_or_else(|| broken(&"not in the header"))?;
        let (from, to) = info.data_offsets;
        if info.shape.iter().any(|&dim| i32::try_from(dim).is_err()) {
            return Err(broken(&format!("shape {:?}", info.shape)));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(to - from).map_err(|error| broken(&error))?;
        bytes.resize(to - from, 0);
        let place = SeekFrom::Start(self.start + from as u64);
        self.file
            .seek(place)
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| broken(&error))?;
        let view = TensorView::new(info.dtype, info.shape.clone(), &bytes).map_err(|error| broken(&error))?;
        Array::try_from(view).map_err(|error| broken(&error))
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<(String, Array)>;

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.names.pop()?;
        Some(self.read(&name).map(|array| (name, array)))
    }
}

fn broken(path: &Path, why: &dyn Display) -> Error {
    Error::ModelLoading(format!("{}: {why}", path.display()))
}

/// Returns the offset of the tensor data and the header, whose offsets lie within the file and do not
/// overlap.
fn header(file: &mut File, length: u64, max: u64) -> std::result::Result<(u64, Metadata), String> {
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| "not a safetensors file: shorter than 8 bytes".to_owned())?;
    let size = u64::from_le_bytes(size);
    if size > max || size + 8 > length {
        return Err(format!(
            "not a safetensors file, or truncated: the header claims {size} bytes, the file has {length}"
        ));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&bytes)
        .map_err(|error| format!("the safetensors header is broken: {error}"))?;
    let end = size + 8 + metadata.data_len() as u64;
    if end != length {
        return Err(format!("truncated or damaged: its tensors end at byte {end}, the file has {length}"));
    }
    Ok((size + 8, metadata))
}

/// Atomically replaces the file `path` by `tensors`, with `metadata` in the header.
///
/// # Errors
/// No space, no permission, or an array that cannot be evaluated.
pub fn write(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) -> Result<()> {
    // Views must be row-major and evaluated.
    let rows: BTreeMap<&String, Array> =
        tensors.iter().map(|(name, x)| Ok((name, x.contiguous()?))).collect::<Result<_>>()?;
    kernels::eval(rows.values())?;
    let mut views: Vec<(&String, TensorView)> = rows
        .iter()
        .map(|(&name, array)| {
            Ok((name, TensorView::try_from(array).map_err(|error| unstorable(name, &error))?))
        })
        .collect::<Result<_>>()?;
    // Aligned: the widest numbers first, otherwise in the order of the names.
    views.sort_by_key(|(_, view)| std::cmp::Reverse(view.dtype()));
    let header = header_of(&views, metadata).map_err(|error| unstorable(&path.display(), &error))?;
    // Not `safetensors::serialize_to_file`: its temporary file has a name that no later run could know, and only its
    // owner may read it.
    atomic::write(path, |file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, view) in &views {
            file.write_all(view.data())?;
        }
        file.flush()
    })
}

fn unstorable(what: &dyn Display, why: &dyn Display) -> Error {
    Error::Training(format!("cannot store {what}: {why}"))
}

/// The header of a file with the tensors `views`, without its length.
fn header_of(
    views: &[(&String, TensorView)],
    metadata: &[(&str, &str)],
) -> std::result::Result<Vec<u8>, SafeTensorError> {
    let mut start = 0;
    let infos = views
        .iter()
        .map(|(name, view)| {
            let end = start + view.data().len();
            let data_offsets = (std::mem::replace(&mut start, end), end);
            let info = TensorInfo { dtype: view.dtype(), shape: view.shape().to_vec(), data_offsets };
            ((*name).clone(), info)
        })
        .collect();
    let metadata = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut header = serde_json::to_vec(&Metadata::new(Some(metadata), infos)?)?;
    if header.len() as u64 > MAX_HEADER {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok(header)
}

/// Returns the dtype called `name` in configurations.
///
/// # Errors
/// A name other than `float32`, `float16` or `bfloat16`.
pub fn dtype(name: &str) -> Result<Dtype> {
    match name {
        "float32" => Ok(Dtype::Float32),
        "float16" => Ok(Dtype::Float16),
        "bfloat16" => Ok(Dtype::Bfloat16),
        other => Err(Error::Config(format!(
            "dtype is \"{other}\", expected \"float32\", \"float16\" or \"bfloat16\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tensors {
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let half = x.as_dtype(Dtype::Bfloat16).unwrap();
        [("turned".to_owned(), x.t()), ("half".to_owned(), half)].into()
    }

    #[test]
    fn round_trip_keeps_values_and_dtypes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &sample(), &[("format", "mlx")]).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back["turned"].shape(), [3, 2]);
        assert_eq!(back["turned"].as_slice::<f32>(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(back["half"].dtype(), Dtype::Bfloat16);
    }

    #[test]
    fn files_equal_those_of_the_library() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0], &[3]);
        let sizes = Array::from_slice(&[7_u8, 8, 9, 10, 11], &[5]);
        let halves = [x.as_dtype(Dtype::Float16).unwrap(), x.as_dtype(Dtype::Bfloat16).unwrap()];
        let [half, brain] = halves;
        let named = [("z", x.clone()), ("a \"b\"", sizes), ("c", half), ("b", x), ("a", brain)];
        for count in 0..=named.len() {
            let tensors: Tensors =
                named[..count].iter().map(|(name, x)| ((*name).to_owned(), x.clone())).collect();
            write(&path, &tensors, &[("format", "pt")]).unwrap();
            let views = tensors.iter().map(|(name, x)| (name, TensorView::try_from(x).unwrap()));
            let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
            assert_eq!(std::fs::read(&path).unwrap(), safetensors::serialize(views, metadata).unwrap());
        }
    }

    #[test]
    fn the_largest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let of = |name: &str, len: i32| (name.to_owned(), Array::zeros::<f32>(&[len]).unwrap());
        write(&path, &[of("a", 3), of("b", 70), of("c", 1), of("d", 8)].into(), &[]).unwrap();
        let names: Vec<_> = Reader::open(&path).unwrap().map(|tensor| tensor.unwrap().0).collect();
        assert_eq!(names, ["b", "d", "a", "c"]);
    }

    #[test]
    fn broken_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &sample(), &[]).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        for (bytes, why) in
            [(&good[..good.len() - 4], "truncated"), (&good[..4], "shorter than 8"), (&huge, "header claims")]
        {
            std::fs::write(&path, bytes).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("x.safetensors") && message.contains(why), "{message}");
        }
    }
}
