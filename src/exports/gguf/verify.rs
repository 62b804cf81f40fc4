//! Reading a file back, and comparing its numbers with those of the model.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value as Json;

use super::file_type::FileType;
use super::progress::Stage;
use super::run::{Contents, contents};
use crate::io::gguf::decode::read_blocks;
use crate::io::gguf::{Reader, TensorInfo};
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, threads};

/// Decodes every tensor of the file `path`, which [`write`](super::write) wrote, and returns the largest difference to
/// the number of `model` in its place, relative to the largest number of the tensor.
///
/// # Errors
/// A file that cannot be read or lacks a tensor; errors from MLX; [`Error::Interrupted`].
pub fn verify(model: &mut Model, config: &Json, path: &Path, observer: &mut dyn Observer) -> Result<f64> {
    threads::start()?;
    let mut reader = Reader::open(path)?;
    let Contents { tensors, heads, factors, .. } = contents(model, config, FileType::F32, false)?;
    let expected: BTreeSet<&str> = tensors
        .iter()
        .map(|tensor| tensor.info.name.as_str())
        .chain(factors.iter().map(|(name, _)| *name))
        .collect();
    let found: BTreeSet<&str> = reader.tensors().keys().map(String::as_str).collect();
    if let Some(name) = expected.symmetric_difference(&found).next() {
        return Err(reader.error(&format!("tensor \"{name}\" is missing, or does not belong to the model")));
    }
    let total = tensors.iter().map(|tensor| tensor.info.len()).sum();
    let mut stage = Stage::new("verify", total, observer);
    let mut largest = 0.0_f64;
    for (name, factors) in &factors {
        largest = largest.max(compare(&mut reader, name, factors)?);
    }
    for tensor in &tensors {
        let values = tensor.values(heads)?;
        largest = largest.max(compare(&mut reader, &tensor.info.name, &values)?);
        stage.add(tensor.info.len())?;
    }
    Ok(largest)
}

/// The largest difference of the tensor `name` to `values`, relative to the largest of these.
///
/// # Errors
/// A tensor of another size; errors of the system.
pub(super) fn compare(reader: &mut Reader, name: &str, values: &[f32]) -> Result<f64> {
    let info: TensorInfo = reader
        .tensors()
        .get(name)
        .cloned()
        .ok_or_else(|| reader.error(&format!("tensor \"{name}\" is missing")))?;
    let (columns, row_bytes) = (info.columns(), info.row_bytes());
    if values.len() != info.rows() * columns {
        return Err(reader.error(&format!("tensor \"{name}\" has the shape {:?}", info.shape)));
    }
    let mut bytes = vec![0; info.bytes];
    reader.read(info.start, &mut bytes)?;
    let rows = bytes.par_chunks_exact(row_bytes).zip(values.par_chunks_exact(columns));
    let (difference, most) = rows
        .map(|(blocks, values)| {
            let mut decoded = vec![0.0; columns];
            read_blocks(info.kind, blocks, &mut decoded);
            decoded.iter().zip(values).fold((0.0, 0.0), |(difference, most), (decoded, value)| {
                // Not a number is no small difference.
                let off = (f64::from(*decoded) - f64::from(*value)).abs();
                let off = if off.is_nan() { f64::INFINITY } else { off };
                (f64::max(difference, off), f64::max(most, f64::from(value.abs())))
            })
        })
        .reduce(|| (0.0, 0.0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    match (difference, most) {
        (difference, _) if difference.is_infinite() => {
            Err(Error::Config(format!("tensor \"{name}\" of the file holds numbers that are not finite")))
        }
        (0.0, _) => Ok(0.0),
        (difference, most) => Ok(difference / most.max(f64::MIN_POSITIVE)),
    }
}
