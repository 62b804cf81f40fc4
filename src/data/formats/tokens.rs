//! Packed token ids: tokenized rows in one safetensors file.
//!
//! | tensor    | dtype                   | shape            | contents                                                   |
//! |-----------|-------------------------|------------------|------------------------------------------------------------|
//! | `ids`     | uint16, or uint32       | `[tokens]`       | the ids of all rows, one after the other                   |
//! | `offsets` | uint64                  | `[rows + 1]`     | where each row begins in `ids`, and where the last one ends |
//! | `learned` | uint8                   | `[⌈tokens / 8⌉]` | bit `i % 8` of byte `i / 8`: whether token `i` is learned  |
//!
//! The metadata tell the format, its version, and the fingerprint of the tokenizer. Files are not trusted: every size is
//! checked against the length of the file before anything is allocated.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensorError, serialize};

use super::collector::{RowCollector, file_error};
use crate::data::rows::TokenRow;
use crate::data::samples::Sample;
use crate::data::text::Tokenizer;
use crate::{Error, Result};

/// Extension of such files.
pub(in crate::data) const TOKENS_EXTENSION: &str = "safetensors";

const FORMAT: [(&str, &str); 2] = [("format", "efficientai-tokens"), ("version", "1")];
const TOKENIZER: &str = "tokenizer";

/// Largest header that is read, in bytes; this one has some 400.
const MAX_HEADER: u64 = 1 << 16;

/// The bytes of a file with `samples`, encoded by `tokenizer`.
///
/// # Errors
/// [`Error::Dataset`] if there are no samples, or one is empty.
pub fn tokens_file(samples: &[Sample], tokenizer: &Tokenizer) -> Result<Vec<u8>> {
    if samples.is_empty() || samples.iter().any(Sample::is_empty) {
        return Err(Error::Dataset("there are no rows to store, or one has no tokens".to_owned()));
    }
    let ids = || samples.iter().flat_map(|sample| &sample.ids);
    let narrow: Option<Vec<u16>> = ids().map(|&id| u16::try_from(id).ok()).collect();
    let (dtype, id_bytes): (_, Vec<u8>) = match narrow {
        Some(ids) => (Dtype::U16, ids.into_iter().flat_map(u16::to_le_bytes).collect()),
        None => (Dtype::U32, ids().flat_map(|id| id.to_le_bytes()).collect()),
    };
    let mut offsets = vec![0_u64];
    for sample in samples {
        offsets.push(offsets[offsets.len() - 1] + sample.len() as u64);
    }
    let learned: Vec<bool> = samples.iter().flat_map(|sample| sample.loss_mask.iter().copied()).collect();
    let bits: Vec<u8> = learned
        .chunks(8)
        .map(|bits| bits.iter().enumerate().map(|(place, &bit)| u8::from(bit) << place).sum())
        .collect();
    let offset_bytes: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
    let fingerprint = tokenizer.fingerprint();
    let metadata = FORMAT.into_iter().chain([(TOKENIZER, &*fingerprint)]);
    let metadata: HashMap<String, String> =
        metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let file = || -> std::result::Result<Vec<u8>, SafeTensorError> {
        let views = [
            ("ids", TensorView::new(dtype, vec![learned.len()], &id_bytes)?),
            ("offsets", TensorView::new(Dtype::U64, vec![offsets.len()], &offset_bytes)?),
            ("learned", TensorView::new(Dtype::U8, vec![bits.len()], &bits)?),
        ];
        serialize(views, Some(metadata))
    };
    file().map_err(|error| Error::Dataset(format!("cannot store token ids: {error}")))
}

/// Reads all rows.
///
/// # Errors
/// See [`read_rows`](super::read::read_rows).
pub(super) fn read(file: File, rows: &mut RowCollector) -> Result<()> {
    let path = Arc::clone(&rows.path);
    let packed = Packed::read(file).map_err(|reason| file_error(&path, reason))?;
    for row in 0..packed.offsets.len() - 1 {
        let row = packed.row(row).map_err(|reason| file_error(&path, reason))?;
        rows.push_tokens(row);
    }
    Ok(())
}

/// The contents of a file.
struct Packed {
    ids: Vec<u8>,
    /// Bytes per id.
    width: usize,
    offsets: Vec<u64>,
    learned: Vec<u8>,
    tokenizer: Arc<str>,
}

impl Packed {
    fn read(mut file: File) -> std::result::Result<Self, String> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let (start, metadata) = header(&mut file, length)?;
        let named = metadata.metadata().clone().unwrap_or_default();
        for (key, expected) in FORMAT {
            let found = named.get(key).map(String::as_str);
            if found != Some(expected) {
                return Err(format!(
                    "not a file of token ids: its metadata have {key} {}, expected {expected:?}; such files are made \
                     by quantized-model-benchmarks:select --format tokens",
                    found.map_or_else(|| "missing".to_owned(), |found| format!("{found:?}"))
                ));
            }
        }
        let tokenizer = named.get(TOKENIZER).ok_or("the metadata do not name the tokenizer")?.as_str().into();
        let mut read = |name: &str, dtypes: &[Dtype]| {
            let info = metadata.info(name).ok_or_else(|| format!("there is no tensor \"{name}\""))?;
            if !dtypes.contains(&info.dtype) || info.shape.len() != 1 {
                return Err(format!("tensor \"{name}\" is {:?} {:?}", info.dtype, info.shape));
            }
            let (from, to) = info.data_offsets;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(to - from).map_err(|error| format!("tensor \"{name}\": {error}"))?;
            bytes.resize(to - from, 0);
            file.seek(SeekFrom::Start(start + from as u64))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(|error| format!("tensor \"{name}\": {error}"))?;
            Ok((info.dtype, bytes))
        };
        let (dtype, ids) = read("ids", &[Dtype::U16, Dtype::U32])?;
        let width = if dtype == Dtype::U16 { 2 } else { 4 };
        let (_, offsets) = read("offsets", &[Dtype::U64])?;
        let (_, learned) = read("learned", &[Dtype::U8])?;
        let (offsets, _) = offsets.as_chunks::<8>();
        let offsets: Vec<u64> = offsets.iter().map(|offset| u64::from_le_bytes(*offset)).collect();
        let tokens = ids.len() / width;
        if learned.len() != tokens.div_ceil(8) {
            return Err(format!("{} bytes tell which of {tokens} tokens are learned", learned.len()));
        }
        if offsets.first() != Some(&0) || offsets.last() != Some(&(tokens as u64)) {
            return Err(format!("the offsets of the rows do not begin at 0 and end at {tokens} tokens"));
        }
        Ok(Self { ids, width, offsets, learned, tokenizer })
    }

    fn row(&self, row: usize) -> std::result::Result<TokenRow, String> {
        let (start, end) = (self.offsets[row], self.offsets[row + 1]);
        let tokens = self.ids.len() / self.width;
        if start >= end || end > tokens as u64 {
            return Err(format!(
                "row {} begins at token {start} and ends at {end} of {tokens}; it must not be empty",
                row + 1
            ));
        }
        let tokens = start as usize..end as usize;
        let bytes = &self.ids[tokens.start * self.width..tokens.end * self.width];
        let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
        Ok(TokenRow {
            ids: bytes.chunks_exact(self.width).map(id).collect(),
            learned: tokens.map(|token| self.learned[token / 8] >> (token % 8) & 1 == 1).collect(),
            tokenizer: Arc::clone(&self.tokenizer),
        })
    }
}

/// Returns the offset of the tensor data and the header, whose offsets lie within the file.
fn header(file: &mut File, length: u64) -> std::result::Result<(u64, Metadata), String> {
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| "not a safetensors file: shorter than 8 bytes".to_owned())?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size + 8 > length {
        return Err(format!(
            "not a file of token ids, or truncated: the header claims {size} bytes, the file has {length}"
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::data::rows::Row;
    use crate::data::{Columns, Labels, LocatedRow, Position, fixture, read_rows, tokenize};

    fn samples() -> Vec<Sample> {
        let sample = |ids: &[u32], from: usize| Sample::new(ids.to_vec(), |index| index >= from);
        vec![sample(&[257, 97, 98, 258], 2), sample(&[257, 99], 0), sample(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 5)]
    }

    fn store(folder: &TempDir, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.path().join("train.safetensors");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn rows(path: &Path) -> Result<Vec<LocatedRow>> {
        read_rows(path, &Columns::default())
    }

    #[test]
    fn rows_come_back_as_the_samples_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = fixture::tokenizer(None);
        let mut samples = samples();
        for wide in [false, true] {
            if wide {
                samples[1].ids[1] = 1 << 20;
            }
            let bytes = tokens_file(&samples, &tokenizer).unwrap();
            let rows = rows(&store(&folder, &bytes)).unwrap();
            assert_eq!((rows.len(), rows[2].position, rows[2].row.kind()), (3, Position::Row(3), "tokens"));
            let split = tokenize(&rows, &tokenizer, Labels::Completions, 64).unwrap();
            assert_eq!(split.samples, samples);
            let all = tokenize(&rows, &tokenizer, Labels::All, 64).unwrap().samples;
            assert_eq!(all[2].loss_mask, [false, true, true, true, true, true, true, true, true]);
        }
    }

    #[test]
    fn another_tokenizer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = tokens_file(&samples(), &fixture::tokenizer(None)).unwrap();
        let path = store(&folder, &bytes);
        let rows = rows(&path).unwrap();
        let other = fixture::llama(&serde_json::json!({}));
        let error = tokenize(&rows, &other, Labels::All, 64).unwrap_err().to_string();
        let start = format!("{}: row 1: the token ids are those of another tokenizer", path.display());
        assert!(error.starts_with(&start), "{error}");
        // A chat template makes no other tokens.
        assert!(tokenize(&rows, &fixture::tokenizer(Some(fixture::CHATML)), Labels::All, 64).is_ok());
        let pairs = tokenize(&rows, &fixture::tokenizer(None), Labels::PreferencePairs, 64).unwrap_err();
        assert!(pairs.to_string().contains("of the kind \"tokens\""), "{pairs}");
    }

    #[test]
    fn nothing_is_no_file() {
        let tokenizer = fixture::tokenizer(None);
        for samples in [vec![], vec![Sample::new(vec![], |_| true)]] {
            assert!(tokens_file(&samples, &tokenizer).is_err());
        }
    }

    type Change = (&'static str, Dtype, Vec<u8>);

    /// A file with one tensor replaced.
    fn changed((name, dtype, bytes): &Change, tokenizer: &Tokenizer) -> Vec<u8> {
        let good = tokens_file(&samples(), tokenizer).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&good).unwrap();
        let file = safetensors::SafeTensors::deserialize(&good).unwrap();
        let width = bytes.len() * 8 / dtype.bitsize();
        let views = file.tensors().into_iter().map(|(tensor, view)| {
            let new = TensorView::new(*dtype, vec![width], bytes).unwrap();
            if tensor == *name { (tensor, new) } else { (tensor, view) }
        });
        serialize(views.collect::<Vec<_>>(), header.metadata().clone()).unwrap()
    }

    #[test]
    fn damaged_files_are_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = fixture::tokenizer(None);
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let broken = |change: Change, reason: &str| (changed(&change, &tokenizer), reason.to_owned());
        let good = tokens_file(&samples(), &tokenizer).unwrap();
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&(u64::MAX - 3).to_le_bytes());
        let text = String::from_utf8_lossy(&good[8..]).into_owned();
        let foreign = text.split("efficientai-tokens").next().map(str::len).unwrap() + 8;
        let mut other = good.clone();
        other[foreign] = b'x';
        for (bytes, reason) in [
            (good[..good.len() - 3].to_vec(), "truncated or damaged".to_owned()),
            (good[..5].to_vec(), "not a safetensors file: shorter than 8 bytes".to_owned()),
            (huge, "the header claims 18446744073709551612 bytes".to_owned()),
            (other, "not a file of token ids: its metadata have format \"xfficientai-tokens\"".to_owned()),
            broken(("offsets", Dtype::U64, words(&[0, 4, 6, 14])), "begin at 0 and end at 15 tokens"),
            broken(("offsets", Dtype::U64, words(&[1, 4, 6, 15])), "begin at 0 and end at 15 tokens"),
            broken(("offsets", Dtype::U64, words(&[])), "begin at 0 and end at 15 tokens"),
            broken(("offsets", Dtype::U64, words(&[0, 6, 4, 15])), "row 2 begins at token 6 and ends at 4"),
            broken(("offsets", Dtype::U64, words(&[0, 4, 4, 15])), "row 2 begins at token 4 and ends at 4"),
            broken(("offsets", Dtype::U64, words(&[0, u64::MAX, 6, 15])), "row 1 begins at token 0"),
            broken(("learned", Dtype::U8, vec![0]), "1 bytes tell which of 15 tokens are learned"),
            broken(("ids", Dtype::F16, vec![0; 30]), "tensor \"ids\" is F16"),
        ] {
            let path = store(&folder, &bytes);
            let error = rows(&path).unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()) && error.contains(&reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(
            at in 0_usize..400,
            byte: u8,
            end in 0_usize..600,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut bytes = tokens_file(&samples(), &fixture::tokenizer(None)).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(end);
            let path = store(&folder, &bytes);
            if let Err(error) = rows(&path) {
                prop_assert!(!error.to_string().contains("cannot be read"), "{}", error);
            }
        }

        #[test]
        fn every_row_survives(
            lengths in proptest::collection::vec(1_usize..20, 1..20),
            seed: u32,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let tokenizer = fixture::tokenizer(None);
            let next = |n: usize| (n as u32).wrapping_mul(2_654_435_761) ^ seed;
            let sample = |(row, &length): (usize, &usize)| {
                let id = |i: usize| next(row * 31 + i) % 70_000;
                Sample::new((0..length).map(id).collect(), |i| next(i + row) & 1 == 0)
            };
            let samples: Vec<Sample> = lengths.iter().enumerate().map(sample).collect();
            let path = store(&folder, &tokens_file(&samples, &tokenizer).unwrap());
            let rows = rows(&path).unwrap();
            for (row, sample) in rows.iter().zip(&samples) {
                let Row::Tokens(row) = &row.row else { panic!("{row:?}") };
                prop_assert_eq!((&row.ids, &row.learned), (&sample.ids, &sample.loss_mask));
            }
        }
    }
}
