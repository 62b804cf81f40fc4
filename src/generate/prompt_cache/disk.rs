//! States in files, which outlast the process.
//!
//! A file is found by what its state was computed with: the content of all weights, the settings of the cache, and the
//! outcome of a short text, which differs where kernels, their accuracy or the processor do.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde_json::json;
use twox_hash::xxhash3_128::Hasher;

use super::StateKind;
use super::entry::{Entry, Key, NewEntry, kind_of};
use super::writer::{Writer, touch, trim};
use crate::io::atomic;
use crate::kernels::eval;
use crate::kernels::quantized::{Accuracy, Format};
use crate::models::Model;
use crate::nn::Cache;
use crate::params::digest;
use crate::{Error, Result};

/// Tokens that a file must save: reading fewer takes no longer than opening one.
const MIN_TOKENS: usize = 32;
/// Tokens of the text whose outcome tells what computes.
const PROBE: i32 = 16;

/// States in the files of a folder, whose size is bounded.
#[derive(Debug)]
pub struct DiskCache {
    folder: PathBuf,
    max_bytes: u64,
    accuracy: Accuracy,
    /// What identifies weights in every process, by their number in this one.
    fingerprints: BTreeMap<u64, u128>,
    /// Outcomes of the short text, by weights and quantization.
    probes: BTreeMap<(u64, Option<(usize, usize)>), u128>,
    /// States of the short text, by quantization: those in files have such tensors.
    likes: BTreeMap<Option<(usize, usize)>, Cache>,
    /// Files by the number of their kind.
    shelves: BTreeMap<u128, Vec<Entry>>,
    writer: Writer,
}

impl DiskCache {
    /// Opens the folder, which only its owner may read if it is new: states tell what the texts were. Passes have kernels
    /// of `accuracy`.
    ///
    /// # Errors
    /// A folder that cannot be created; a bound of 0 bytes.
    pub fn open(folder: PathBuf, max_bytes: u64, accuracy: Accuracy) -> Result<Self> {
        if max_bytes == 0 {
            return Err(Error::Config("prompt_cache_disk_bytes is 0; it must be at least 1".into()));
        }
        atomic::refuse_link(&folder)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder).map_err(Error::io("create", &folder))?;
        trim(&folder, max_bytes);
        let writer = Writer::start(folder.clone(), max_bytes)?;
        let (fingerprints, probes) = (BTreeMap::new(), BTreeMap::new());
        let (likes, shelves) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { folder, max_bytes, accuracy, fingerprints, probes, likes, shelves, writer })
    }

    pub(super) fn fingerprint(&self, weights: u64) -> Option<u128> {
        self.fingerprints.get(&weights).copied()
    }

    pub(super) fn set_fingerprint(&mut self, weights: u64, fingerprint: u128) {
        self.fingerprints.insert(weights, fingerprint);
    }

    /// Returns tokens and state of the file that knows more of `tokens` than the first `known`.
    pub(super) fn find(
        &mut self,
        model: &Model,
        tokens: &[u32],
        kind: &StateKind,
        offset: i32,
        known: usize,
    ) -> Option<(Vec<u32>, Cache)> {
        self.note_written();
        if let Err(error) = self.probe(model, kind) {
            log::warn!("no states from {}: {error}", self.folder.display());
            return None;
        }
        let key = self.key(kind)?;
        let like = self.likes.get(&kind.quantized)?;
        let entries = self.shelves.entry(key.hash).or_insert_with(|| list(&self.folder, &key));
        // The text has a token more than it asks for.
        let planned = offset + tokens.len() as i32 + 1;
        loop {
            let count = |entry: &Entry| if entry.is_written { entry.count_shared(tokens, offset) } else { 0 };
            let (best, index) = entries.iter().map(count).zip(0..).max()?;
            if best < known + MIN_TOKENS {
                return None;
            }
            let entry = &entries[index];
            match entry.read(&key, like, planned, offset) {
                Ok(cache) => {
                    touch(&entry.path);
                    return Some((entry.tokens.clone(), cache));
                }
                Err(error) => {
                    // Others remove files, too.
                    if entry.path.exists() {
                        discard(entry.path.clone(), &error);
                    }
                    entries.swap_remove(index);
                }
            }
        }
    }

    /// Keeps the state after `tokens`, if a file is worth it.
    pub(super) fn insert(&mut self, tokens: &[u32], kind: &StateKind, cache: &Cache) {
        self.note_written();
        let Some(key) = self.key(kind) else { return };
        let Some(entries) = self.shelves.get_mut(&key.hash) else { return };
        let offset = cache.positions().map_or(0, |positions| positions - tokens.len() as i32);
        let known = entries.iter().map(|entry| entry.count_shared(tokens, offset)).max().unwrap_or(0);
        if tokens.len() < known + MIN_TOKENS {
            return;
        }
        let new = match NewEntry::new(&self.folder, &key, tokens, cache) {
            Ok(Some(new)) if new.bytes() as u64 <= self.max_bytes => new,
            Ok(_) => return,
            Err(error) => return log::warn!("a state was not stored in {}: {error}", self.folder.display()),
        };
        let follows = |entry: &Entry| {
            let cut = offset + entry.tokens.len() as i32;
            new.entry.shortest.is_some_and(|shortest| shortest <= cut)
        };
        let is_replaced = |entry: &&Entry| tokens.starts_with(&entry.tokens) && follows(entry);
        let replaced = entries.iter().filter(is_replaced).map(|entry| entry.path.clone()).collect();
        let entry = new.entry.clone();
        if self.writer.submit(new, replaced) {
            entries.push(entry);
        }
    }

    /// Writes all that waits; what comes later is not written.
    pub(super) fn close(&mut self) {
        self.writer.finish();
        self.note_written();
    }

    /// Learns what the writer has done.
    fn note_written(&mut self) {
        for written in self.writer.written() {
            if let Err(error) = &written.outcome {
                log::warn!("a state was not stored: {error}");
            }
            for entries in self.shelves.values_mut() {
                entries.retain(|entry| match &written.outcome {
                    Ok(()) => !written.replaced.contains(&entry.path),
                    Err(_) => entry.path != written.path,
                });
                for entry in entries.iter_mut().filter(|entry| entry.path == written.path) {
                    entry.is_written = true;
                }
            }
        }
    }

    /// Computes the short text, once for each kind of state.
    fn probe(&mut self, model: &Model, kind: &StateKind) -> Result<()> {
        let key = (kind.weights, kind.quantized);
        if self.probes.contains_key(&key) {
            return Ok(());
        }
        let mut cache = model.new_cache(PROBE)?;
        if let Some((bits, group_size)) = kind.quantized {
            cache.quantize(Format::affine(bits, group_size)?);
        }
        let ids: Vec<i32> = (0..PROBE).map(|i| (i * 7919 + 1) % model.vocab_size()).collect();
        let ids = Array::from_slice(&ids, &[1, PROBE]);
        let mut hasher = Hasher::new();
        self.accuracy.scope(|| {
            let hidden = model.hidden(&ids, Some(&mut cache))?;
            eval([&hidden].into_iter().chain(cache.arrays()))?;
            digest(&mut hasher, "hidden", &hidden)
        })?;
        self.probes.insert(key, hasher.finish_128());
        self.likes.insert(kind.quantized, cache);
        Ok(())
    }

    /// All that a state depends on; `None` before it is known.
    fn key(&self, kind: &StateKind) -> Option<Key> {
        let StateKind { weights, quantized, rotation } = kind;
        let probe = self.probes.get(&(*weights, *quantized))?;
        let values = json!({
            "format": 1,
            "toolkit": env!("CARGO_PKG_VERSION"),
            "weights": format!("{:032x}", self.fingerprints.get(weights)?),
            "probe": format!("{probe:032x}"),
            "accuracy": self.accuracy,
            "quantized": quantized,
            "rotation": rotation,
        });
        Some(Key::new(values.to_string()))
    }
}

/// The files of a kind; damaged ones are removed.
fn list(folder: &Path, key: &Key) -> Vec<Entry> {
    let mut entries = Vec::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_name().to_str().and_then(kind_of) == Some(key.hash) {
            match Entry::open(&file.path(), key) {
                Ok(entry) => entries.push(entry),
                Err(error) => discard(file.path(), &error),
            }
        }
    }
    entries
}

fn discard(path: PathBuf, error: &Error) {
    log::warn!("a state is computed again: {error}");
    // Best effort; nothing uses it either way. A folder of that name is not ours.
    let _ = fs::remove_file(path);
}
