//! A state in a safetensors file: its tokens, its tensors, and in the header what it was computed with.
//!
//! Files are not trusted. Nothing is allocated before its size is compared with what the model has, and a state is used
//! only if the checksum of its content is right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128::Hasher;

use crate::io::tensors::{self, Reader};
use crate::kernels::eval;
use crate::nn::cache_layout::TensorType;
use crate::nn::{Cache, CacheLayout};
use crate::params::{Tensors, digest};
use crate::{Error, Result, files};

/// Largest header, in bytes: a model of 1,000 layers has less.
const MAX_HEADER: u64 = 8 << 20;
/// Largest number of tokens.
const MAX_TOKENS: usize = 1 << 22;
/// Name of the tensor of tokens; those of the state begin with the number of a layer.
const TOKENS: &str = "tokens";

/// What states of one kind are computed with, as a text, and its number in the names of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    text: String,
    pub hash: u128,
}

impl Key {
    pub(super) fn new(text: String) -> Self {
        let hash = twox_hash::XxHash3_128::oneshot(text.as_bytes());
        Self { text, hash }
    }

    /// Name of the file of `tokens`.
    fn file_name(&self, tokens: &[u32]) -> String {
        let mut hasher = Hasher::new();
        for token in tokens {
            hasher.write(&token.to_le_bytes());
        }
        format!("{:032x}-{:032x}.safetensors", self.hash, hasher.finish_128())
    }
}

/// Number of the kind of states that a file of this name belongs to; `None` if it is not of a prompt cache.
pub(super) fn kind_of(name: &str) -> Option<u128> {
    let is_number =
        |text: &str| text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let (kind, tokens) = name.strip_suffix(".safetensors")?.split_once('-')?;
    if is_number(kind) && is_number(tokens) { u128::from_str_radix(kind, 16).ok() } else { None }
}

/// What the header holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    layout: CacheLayout,
    /// Smallest number of positions that the state can be cut to; `None` if it cannot be cut.
    shortest: Option<i32>,
}

/// A file whose state has not been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub tokens: Vec<u32>,
    pub shortest: Option<i32>,
    /// Whether the file is complete.
    pub is_written: bool,
}

impl Entry {
    /// Reads what is known of a file without its state.
    ///
    /// # Errors
    /// A file that is damaged or of another kind.
    pub(super) fn open(path: &Path, key: &Key) -> Result<Self> {
        files::guard(path, Error::ModelLoading, || {
            let mut reader = Reader::open_small(path, MAX_HEADER)?;
            let (_, Header { shortest, .. }) = header(&reader, path, key)?;
            let count = match types(&reader)?.get(TOKENS) {
                Some((Dtype::Uint32, shape)) if shape.len() == 1 => shape[0].unsigned_abs() as usize,
                _ => return Err(damaged(path, "it has no tokens")),
            };
            if count > MAX_TOKENS {
                return Err(damaged(path, "it has too many tokens"));
            }
            reader.retain(|name| name == TOKENS);
            let tokens =
                reader.next().transpose()?.map(|(_, tokens)| read_tokens(&tokens)).unwrap_or_default();
            if tokens.is_empty()
                || key.file_name(&tokens) != path.file_name().unwrap_or_default().to_string_lossy()
            {
                return Err(damaged(path, "its tokens are not those of its name"));
            }
            Ok(Self { path: path.to_owned(), tokens, shortest, is_written: true })
        })
    }

    /// Reads the state, for the model that has filled `like`. It is that of a text of which `planned` positions are
    /// known, `offset` of them before the first token.
    ///
    /// # Errors
    /// A file that is damaged, or not what it was.
    pub(super) fn read(&self, key: &Key, like: &Cache, planned: i32, offset: i32) -> Result<Cache> {
        let path = &self.path;
        files::guard(path, Error::ModelLoading, || {
            let reader = Reader::open_small(path, MAX_HEADER)?;
            let (text, Header { layout, .. }) = header(&reader, path, key)?;
            let text = text.to_owned();
            let checksum = reader.metadata("checksum").unwrap_or_default().to_owned();
            let count = self.tokens.len() as i32;
            let foreign = || damaged(path, "it holds no state of the model");
            let mut expected = layout.tensors(like)?.ok_or_else(foreign)?;
            expected.insert(TOKENS.to_owned(), (Dtype::Uint32, vec![count]));
            let fits = like.positions().is_none() || layout.positions() == Some(offset + count);
            if !fits || types(&reader)? != expected {
                return Err(foreign());
            }
            let mut tensors: Tensors = reader.collect::<Result<_>>()?;
            if checksum != content_checksum(key, &text, &tensors)? {
                return Err(damaged(path, "its checksum is wrong"));
            }
            let tokens = tensors.remove(TOKENS).map(|tokens| read_tokens(&tokens));
            let cache =
                layout.cache(like, planned, tensors).filter(|_| tokens.as_ref() == Some(&self.tokens));
            cache.ok_or_else(|| damaged(path, "it holds another text"))
        })
    }

    /// Whether, and up to which token, the state is one of `tokens`, which come after `offset` positions.
    pub(super) fn count_shared(&self, tokens: &[u32], offset: i32) -> usize {
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let is_reached = |shortest| offset + shared as i32 >= shortest;
        if shared == self.tokens.len() || self.shortest.is_some_and(is_reached) { shared } else { 0 }
    }
}

/// A state on its way to a file.
#[derive(Debug)]
pub(super) struct NewEntry {
    pub entry: Entry,
    key: Key,
    header: String,
    tensors: Tensors,
}

impl NewEntry {
    /// Collects the state after `tokens`, which nothing changes any longer; `None` if there is nothing to keep.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn new(folder: &Path, key: &Key, tokens: &[u32], cache: &Cache) -> Result<Option<Self>> {
        let Some((layout, tensors)) = CacheLayout::of(cache)? else { return Ok(None) };
        let mut tensors: Tensors =
            tensors.into_iter().map(|(name, x)| Ok((name, x.contiguous()?))).collect::<Result<_>>()?;
        tensors.insert(TOKENS.to_owned(), Array::from_slice(tokens, &[tokens.len() as i32]));
        eval(tensors.values())?;
        let shortest = cache.shortest();
        let header = serde_json::to_string(&Header { layout, shortest })
            .map_err(|error| Error::Training(format!("cannot store a state: {error}")))?;
        let path = folder.join(key.file_name(tokens));
        let entry = Entry { path, tokens: tokens.to_vec(), shortest, is_written: false };
        Ok(Some(Self { entry, key: key.clone(), header, tensors }))
    }

    pub(super) fn bytes(&self) -> usize {
        self.tensors.values().map(Array::nbytes).sum()
    }

    /// Writes the file, under a temporary name until it is complete.
    ///
    /// # Errors
    /// No space or no permission.
    pub(super) fn write(&self) -> Result<()> {
        let checksum = content_checksum(&self.key, &self.header, &self.tensors)?;
        let metadata = [("key", self.key.text.as_str()), ("state", &self.header), ("checksum", &checksum)];
        tensors::write(&self.entry.path, &self.tensors, &metadata)
    }
}

/// The header of a file of this kind, also as the text that it is.
fn header<'a>(reader: &'a Reader, path: &Path, key: &Key) -> Result<(&'a str, Header)> {
    if reader.metadata("key") != Some(&key.text) {
        return Err(damaged(path, "it was computed with something else"));
    }
    let text = reader.metadata("state").unwrap_or_default();
    let header = serde_json::from_str(text).map_err(|error| damaged(path, &error.to_string()))?;
    Ok((text, header))
}

/// Dtypes and shapes by name.
fn types(reader: &Reader) -> Result<BTreeMap<String, TensorType>> {
    let shapes = reader.shapes().map(|(_, shape)| shape);
    let types = reader.contents().zip(shapes).map(|((name, dtype, _), shape)| {
        let wrong = || Error::ModelLoading(format!("tensor \"{name}\" is {dtype:?} of shape {shape:?}"));
        let numbers = Dtype::try_from(dtype).map_err(|_| wrong())?;
        let shape =
            shape.iter().map(|&dim| i32::try_from(dim).map_err(|_| wrong())).collect::<Result<_>>()?;
        Ok((name.to_owned(), (numbers, shape)))
    });
    types.collect()
}

fn read_tokens(tokens: &Array) -> Vec<u32> {
    tokens.try_as_slice::<u32>().unwrap_or_default().to_vec()
}

/// 128 bits of XXH3 over all that a file says.
fn content_checksum(key: &Key, header: &str, tensors: &Tensors) -> Result<String> {
    let mut hasher = Hasher::new();
    for text in [&key.text, header] {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
    for (name, x) in tensors {
        digest(&mut hasher, name, x)?;
    }
    Ok(format!("{:032x}", hasher.finish_128()))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::ModelLoading(format!("{}: {why}", path.display()))
}
