//! Adapters on their own, for use beside the file of their model: `llama-cli --lora`.
//!
//! | here | in the file |
//! |---|---|
//! | `A`, `[in, rank]` | `NAME.weight.lora_a`, `[rank, in]` |
//! | `B`, `[rank, out]` | `NAME.weight.lora_b`, `[out, rank]` |
//! | factor `s` of `A·B` | `adapter.lora.alpha`, `s·rank`; what differs from it is part of `B` |

use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde_json::Value as Json;

use super::config::{Card, GgufConfig};
use super::file_type::FileType;
use super::general;
use super::parameters::floats;
use super::progress::Stage;
use super::run::{Contents, Report, contents, count};
use super::tensors::Tensor;
use super::verify::compare;
use crate::adapters::{Adapter, AdapterLayer};
use crate::io::gguf::encode::encode;
use crate::io::gguf::{self, Metadata, NewTensor, Reader, TensorType, Value};
use crate::models::{Model, explicit_config};
use crate::progress::Observer;
use crate::{Error, Result, threads};

/// Key path of the output head.
const HEAD: &str = "lm_head";

/// A matrix of an adapter, as it is stored.
struct Matrix {
    info: NewTensor,
    values: Vec<f32>,
}

/// Writes the adapter in use on `model`, whose `config.json` is `config`, to the file `path`.
///
/// # Errors
/// A model without adapter, or one with more than low-rank matrices; a type that is not of numbers; a file that cannot be
/// written, which leaves nothing behind; [`Error::Interrupted`].
pub fn write_adapter(
    model: &mut Model,
    config: &Json,
    settings: &GgufConfig,
    card: &Card,
    path: &Path,
    observer: &mut dyn Observer,
) -> Result<Report> {
    settings.validate()?;
    threads::start()?;
    let kind = number_type(settings.r#type)?;
    let (alpha, matrices, architecture) = matrices(model, config, kind)?;
    let mut metadata = Metadata::default();
    metadata.insert("general.type", Value::String("adapter".to_owned()));
    metadata.insert("general.architecture", architecture);
    general::describe(card, &mut metadata)?;
    metadata.insert("adapter.type", Value::String("lora".to_owned()));
    metadata.insert("adapter.lora.alpha", Value::F32(alpha));
    let infos: Vec<NewTensor> = matrices.iter().map(|matrix| matrix.info.clone()).collect();
    let most = infos.first().map_or(TensorType::F32, |info| info.kind);
    metadata.insert("general.file_type", Value::U32(FileType::id_of(most)));
    let mut stage = Stage::new("export", infos.iter().map(NewTensor::len).sum(), observer);
    gguf::write(path, &metadata, &infos, &mut |index| {
        let Matrix { info, values } = &matrices[index];
        let bytes = encode(info.kind, values, info.shape[1], None)?;
        stage.add(bytes.len())?;
        Ok(bytes)
    })?;
    Ok(Report { types: count(&infos), notes: Vec::new() })
}

/// Reads every matrix of the file `path`, which [`write_adapter`] wrote, and returns the largest difference to that of
/// `model` in its place, relative to the largest number.
///
/// # Errors
/// A file that cannot be read or lacks a matrix.
pub fn verify_adapter(model: &mut Model, config: &Json, path: &Path) -> Result<f64> {
    let mut reader = Reader::open(path)?;
    let (alpha, matrices, _) = matrices(model, config, None)?;
    let stored = reader.metadata().float("adapter.lora.alpha")?.unwrap_or_default();
    if (stored as f32).to_bits() != alpha.to_bits() {
        return Err(reader.error(&format!("\"adapter.lora.alpha\" is {stored}, expected {alpha}")));
    }
    let compared = matrices.iter().map(|matrix| compare(&mut reader, &matrix.info.name, &matrix.values));
    compared.collect::<Result<Vec<f64>>>().map(|differences| differences.into_iter().fold(0.0, f64::max))
}

/// The type of all matrices; `None` for that of each.
fn number_type(file: FileType) -> Result<Option<TensorType>> {
    match file.layout() {
        None => Ok(None),
        Some((kind, _)) if !kind.is_quantized() => Ok(Some(kind)),
        Some((kind, _)) => Err(Error::Config(format!(
            "an adapter is exported as numbers, not as {kind}: set type to auto, f32, f16 or bf16"
        ))),
    }
}

/// `alpha`, the matrices in the order of the layers, and the architecture of the model.
fn matrices(model: &mut Model, config: &Json, kind: Option<TensorType>) -> Result<(f32, Vec<Matrix>, Value)> {
    let adapter = Adapter::from_network(model, None)?;
    if adapter.layers.is_empty() {
        return Err(Error::Config(
            "the model has no low-rank adapter to export: name one with adapter_path".into(),
        ));
    }
    if let Some(name) = adapter.whole.keys().next() {
        return Err(Error::Config(format!(
            "the adapter replaces \"{name}\" (modules_to_save), which a GGUF adapter cannot hold: merge it into the model"
        )));
    }
    if adapter.layers.values().any(|layer| layer.m.is_some()) {
        return Err(Error::Config(
            "the adapter has magnitudes (DoRA), which a GGUF adapter cannot hold: merge it into the model"
                .into(),
        ));
    }
    if adapter.layers.contains_key(HEAD) && explicit_config(config)?["tie_word_embeddings"] == true {
        return Err(Error::Config(
            "the adapter changes the output head, which is part of the embeddings in the file of this model: merge it into \
             the model"
                .into(),
        ));
    }
    let alpha = adapter.layers.values().next().map_or(1.0, alpha_of);
    let Contents { metadata, tensors, heads, .. } = contents(model, config, FileType::F32, false)?;
    let mut matrices = Vec::new();
    for tensor in &tensors {
        let is_weight = tensor.source.name.ends_with(".weight");
        let Some(layer) = adapter.layers.get(&tensor.source.path).filter(|_| is_weight) else { continue };
        let kind = kind.unwrap_or(match layer.a.dtype() {
            Dtype::Float16 => TensorType::F16,
            Dtype::Bfloat16 => TensorType::BF16,
            _ => TensorType::F32,
        });
        let mut b = floats(&layer.b.t())?;
        let factor = alpha_of(layer) / alpha;
        for value in &mut b {
            *value *= factor;
        }
        matrices.push(matrix(tensor, "lora_a", &layer.a.t(), floats(&layer.a.t())?, kind));
        matrices.push(matrix(tensor, "lora_b", &layer.b.t(), tensor.reorder(b, heads)?, kind));
    }
    let architecture = metadata.get("general.architecture").cloned();
    let architecture = architecture.unwrap_or_else(|| Value::String(String::new()));
    Ok((alpha, matrices, architecture))
}

/// The number whose quotient with the rank is the factor of the update.
fn alpha_of(layer: &AdapterLayer) -> f32 {
    layer.scale * layer.rank() as f32
}

fn matrix(tensor: &Tensor, leaf: &str, array: &Array, values: Vec<f32>, kind: TensorType) -> Matrix {
    let shape = array.shape().iter().map(|&size| size as usize).collect();
    Matrix { info: NewTensor { name: format!("{}.{leaf}", tensor.info.name), shape, kind }, values }
}
