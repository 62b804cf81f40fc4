//! Writing a model to a file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value as Json;

use super::config::{Card, GgufConfig};
use super::file_type::FileType;
use super::progress::Stage;
use super::tensors::{HeadCounts, Tensor, plan};
use super::{general, importance, parameters, settings, tokenizer};
use crate::data::Tokenizer;
use crate::io::gguf::architecture::{Architecture, metadata};
use crate::io::gguf::{self, Metadata, NewTensor, TensorType, Value};
use crate::models::{Model, explicit_config};
use crate::progress::Observer;
use crate::{Error, Result, threads};

/// Version of the layouts of blocks (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Number of tensors of each type.
    pub types: BTreeMap<String, usize>,
    /// What is not as it was in the model, one line each.
    pub notes: Vec<String>,
}

/// What stands in a file of a model.
pub(super) struct Contents {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Tensor>,
    pub(super) heads: HeadCounts,
    /// What llama.cpp does otherwise than the model.
    pub(super) remark: Option<String>,
    /// Factors of the rotation, by the name of their tensor.
    pub(super) factors: Vec<(&'static str, Vec<f32>)>,
}

/// Writes `model`, whose `config.json` is `config`, and `tokenizer` to the file `path`, tensor by tensor. Adapters in use
/// are merged.
///
/// # Errors
/// Invalid settings; a model or tokenizer that the format cannot express; calibration text that cannot be used; a file that
/// cannot be written, which leaves nothing behind; [`Error::Interrupted`].
pub fn write(
    model: &mut Model,
    config: &Json,
    tokenizer: &Tokenizer,
    settings: &GgufConfig,
    card: &Card,
    path: &Path,
    observer: &mut dyn Observer,
) -> Result<Report> {
    settings.validate()?;
    threads::start()?;
    let is_calibrated = settings.calibration.is_some();
    let Contents { metadata: architecture, tensors, heads, remark, factors } =
        contents(model, config, settings.r#type, is_calibrated)?;
    let mut metadata = Metadata::default();
    metadata.insert("general.type", Value::String("model".to_owned()));
    metadata.0.extend(architecture.0);
    general::describe(card, &mut metadata)?;
    let mut notes = tokenizer::describe(tokenizer, model.vocab_size() as usize, &mut metadata)?;
    describe_types(&tensors, settings.r#type, &mut metadata);
    notes.extend(remark);
    notes.extend(requantized(&tensors));
    let importance = importance::measure(model, tokenizer, settings, observer)?;
    let mut infos: Vec<NewTensor> = factors
        .iter()
        .map(|(name, factors)| NewTensor {
            name: (*name).to_owned(),
            shape: vec![factors.len()],
            kind: TensorType::F32,
        })
        .collect();
    infos.extend(tensors.iter().map(|tensor| tensor.info.clone()));
    let mut stage = Stage::new("export", infos.iter().map(NewTensor::len).sum(), observer);
    gguf::write(path, &metadata, &infos, &mut |index| {
        let bytes = match index.checked_sub(factors.len()) {
            None => factors[index].1.iter().flat_map(|factor| factor.to_le_bytes()).collect(),
            Some(index) => {
                let tensor = &tensors[index];
                let importance = importance.get(&tensor.source.path).map(Vec::as_slice);
                tensor.bytes(heads, importance.filter(|_| tensor.info.kind.is_quantized()))?
            }
        };
        stage.add(bytes.len())?;
        Ok(bytes)
    })?;
    Ok(Report { types: count(&infos), notes })
}

/// What a file of `model` holds.
///
/// # Errors
/// A model that the format cannot express.
pub(super) fn contents(
    model: &mut Model,
    config: &Json,
    file: FileType,
    is_calibrated: bool,
) -> Result<Contents> {
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let architecture = Architecture::of_model(model_type).ok_or_else(|| {
        Error::Config(format!(
            "a model of type \"{model_type}\" cannot be written as GGUF here; supported are: {}",
            Architecture::supported()
        ))
    })?;
    let mut config = explicit_config(config)?;
    settings::check(architecture, &config)?;
    let parameters = parameters::list(model)?;
    settings::complete(&mut config, &parameters);
    let described = metadata(&config)?;
    let count = |key: &str| config[key].as_u64().map(|count| count as usize);
    let queries = count("num_attention_heads").unwrap_or_default();
    let heads = HeadCounts { queries, keys: count("num_key_value_heads").unwrap_or(queries) };
    let tensors = plan(parameters, architecture, file, is_calibrated)?;
    let remark = settings::remark(architecture, &config);
    Ok(Contents { metadata: described.metadata, tensors, heads, remark, factors: described.factors })
}

/// Adds the keys about number formats.
fn describe_types(tensors: &[Tensor], file: FileType, metadata: &mut Metadata) {
    let infos: Vec<NewTensor> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
    let most = infos.iter().max_by_key(|tensor| tensor.shape.iter().product::<usize>());
    let most = TensorType::ALL
        .into_iter()
        .max_by_key(|kind| {
            let of_kind = infos.iter().filter(|tensor| tensor.kind == *kind);
            of_kind.map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>()
        })
        .or(most.map(|tensor| tensor.kind));
    let id = file.layout().map(|(_, id)| id).or(most.map(FileType::id_of));
    metadata.insert("general.file_type", Value::U32(id.unwrap_or_default()));
    if infos.iter().any(|tensor| tensor.kind.is_quantized()) {
        metadata.insert("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    }
}

/// Says which layers were quantized in another way.
fn requantized(tensors: &[Tensor]) -> Option<String> {
    let again = tensors.iter().filter(|tensor| tensor.source.is_packed() && !tensor.is_exact);
    let count = again.filter(|tensor| tensor.info.kind != TensorType::F32).count();
    (count > 0).then(|| {
        format!("{count} layers are quantized in a format that the file type does not hold: they were rounded again")
    })
}

/// Number of tensors of each type.
pub(super) fn count(infos: &[NewTensor]) -> BTreeMap<String, usize> {
    let of = |kind: TensorType| infos.iter().filter(|tensor| tensor.kind == kind).count();
    let counts = TensorType::ALL.map(|kind| (kind.to_string(), of(kind)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}
