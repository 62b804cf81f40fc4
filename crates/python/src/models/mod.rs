//! `_core.models`: language models and their tokenizers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use efficientai_toolkit::io::{atomic, checkpoint, folder, gguf, tensors, weights};
use efficientai_toolkit::kernels::quantized::Format;
use efficientai_toolkit::{Error, Result, adapters, data, kernels, models};
use mlx_rs::Dtype;
use pyo3::prelude::*;

use super::arguments::{Dictionary, Integer, Text};
use super::enter::enter;

mod chat_templates;
mod model;
mod parameters;
mod tokenizer;

pub(crate) use model::{Choice, Model};
pub(crate) use tokenizer::Tokenizer;

/// The dtype of most weights of a checkpoint, or the form in which layers are fastest.
const AUTO: &str = "auto";

/// Loads a model folder in Hugging Face format or a GGUF file with its tokenizer, and an adapter onto it.
///
/// ``dtype`` is ``float32``, ``float16``, ``bfloat16`` or, for that of the checkpoint, ``auto``; ``None`` takes float32
/// on a CPU and the checkpoint's own on a GPU. A checkpoint that MLX quantized stays quantized; with ``bits``
/// (2, 3, 4, 5, 6 or 8) any other is quantized now, in groups of ``group_size`` (32, 64 or 128) weights.
/// With ``sparse`` ``auto``, layers with enough zeros are packed on a CPU, with ``never`` they stay dense.
/// ``chat_template_kwargs`` are options of the chat template.
#[pyfunction]
#[pyo3(signature = (path, adapter_path=None, dtype=None, bits=None, group_size=Integer(64), chat_template_kwargs=None, sparse="auto"))]
#[expect(clippy::too_many_arguments, reason = "each is an option of its own, named by the user")]
pub(crate) fn load(
    py: Python<'_>,
    path: PathBuf,
    adapter_path: Option<PathBuf>,
    dtype: Option<Text>,
    bits: Option<Integer>,
    group_size: Integer,
    chat_template_kwargs: Option<Dictionary<'_>>,
    sparse: &str,
) -> PyResult<(Model, Tokenizer)> {
    let renderer = chat_templates::renderer(py)?;
    let options = chat_template_kwargs.map(|options| options.read("chat_template_kwargs")).transpose()?;
    enter(py, || {
        let packs = match sparse {
            AUTO => true,
            "never" => false,
            other => {
                return Err(Error::Config(format!("sparse is \"{other}\", expected \"auto\" or \"never\"")));
            }
        };
        let group_size = group_size.count("group_size")?;
        let bits = bits.map(|bits| bits.count("bits")).transpose()?;
        let format = bits.map(|bits| Format::affine(bits, group_size)).transpose();
        let format = format.map_err(|error| Error::Config(error.what().to_owned()))?;
        let dtype = match dtype {
            Some(Text(name)) if name == AUTO => None,
            Some(Text(name)) => Some(tensors::dtype(&name)?),
            None => kernels::on_cpu().then_some(Dtype::Float32),
        };
        let config = checkpoint::config(&path)?;
        let mut model = models::load(&path, dtype, format)?;
        if let Some(adapter) = adapter_path {
            adapters::load(&adapter, model.as_mut())?;
        }
        if packs {
            models::sparse::pack(model.as_mut())?;
        }
        let mut tokenizer = read_tokenizer(&path, &config, &renderer)?;
        if let Some(options) = options {
            tokenizer = tokenizer.with_template_options(&options)?;
        }
        Ok((Model::new(model, path, config)?, Tokenizer::new(tokenizer)))
    })
}

/// Loads the tokenizer of a folder alone; ``chat_template_kwargs`` are options of its chat template.
#[pyfunction]
#[pyo3(signature = (path, chat_template_kwargs=None))]
pub(crate) fn load_tokenizer(
    py: Python<'_>,
    path: PathBuf,
    chat_template_kwargs: Option<Dictionary<'_>>,
) -> PyResult<Tokenizer> {
    let renderer = chat_templates::renderer(py)?;
    let options = chat_template_kwargs.map(|options| options.read("chat_template_kwargs")).transpose()?;
    enter(py, || {
        let mut tokenizer = data::Tokenizer::from_folder(&path, &renderer)?;
        if let Some(options) = options {
            tokenizer = tokenizer.with_template_options(&options)?;
        }
        Ok(Tokenizer::new(tokenizer))
    })
}

/// The tokenizer of the model at `path`, a folder or a GGUF file, whose `config.json` is `config`.
fn read_tokenizer(
    path: &Path,
    config: &serde_json::Value,
    renderer: &Arc<dyn data::Renderer>,
) -> Result<data::Tokenizer> {
    if !gguf::is_file(path) {
        return data::Tokenizer::from_folder(path, renderer);
    }
    let gguf::TokenizerFiles { tokenizer, config: settings, generation } =
        gguf::tokenizer(&gguf::Reader::open(path)?)?;
    let contents = data::TokenizerContents {
        folder: path.to_owned(),
        file: path.to_owned(),
        tokenizer: tokenizer.to_string(),
        config: settings,
        generation,
        model: config.clone(),
    };
    drop(tokenizer);
    data::Tokenizer::from_contents(&contents, renderer)
}

/// Copies everything but weights from a model folder or GGUF file to ``folder``: tokenizer, chat templates and, of a
/// folder, configurations.
#[pyfunction]
pub(crate) fn copy_description(py: Python<'_>, path: PathBuf, folder: PathBuf) -> PyResult<()> {
    enter(py, || folder::copy_description(&path, &folder))
}

/// Describes a GGUF file without its weights, as JSON: ``config`` and ``tokenizer_config`` as a model folder has them, the
/// ``packed_bytes`` of matrices that stay packed in memory, and the count of other ``numbers``.
#[pyfunction]
pub(crate) fn describe_gguf(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    enter(py, || {
        let config = checkpoint::config(&path)?;
        let reader = gguf::Reader::open(&path)?;
        let architecture = gguf::architecture::architecture(&reader)?;
        let (packed_bytes, numbers) = gguf::architecture::footprint(&reader, architecture);
        let tokenizer_config = gguf::tokenizer(&reader)?.config;
        Ok(serde_json::json!({
            "config": config, "tokenizer_config": tokenizer_config,
            "packed_bytes": packed_bytes, "numbers": numbers,
        })
        .to_string())
    })
}

/// Writes a model folder with random weights (``config.json`` and ``model.safetensors``).
///
/// ``config`` is the text of a ``config.json``; matrices are drawn with its
/// ``initializer_range`` as standard deviation.
#[pyfunction]
#[pyo3(signature = (config, folder, seed=0, dtype="float32"))]
pub(crate) fn create(py: Python<'_>, config: &str, folder: PathBuf, seed: u64, dtype: &str) -> PyResult<()> {
    enter(py, || {
        let dtype = tensors::dtype(dtype)?;
        let json: serde_json::Value = serde_json::from_str(config)
            .map_err(|error| Error::Config(format!("config is not valid JSON: {error}")))?;
        let mut model = models::create(&json)?;
        let std = json["initializer_range"].as_f64().unwrap_or(0.02) as f32;
        models::initialize(model.as_mut(), std, seed)?;
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let text = serde_json::to_string_pretty(&json).unwrap_or_default();
        atomic::write_text(&folder.join("config.json"), &(text + "\n"))?;
        weights::save(&folder, model.as_ref(), Some(dtype))
    })
}

/// Writes a copy of a model folder with its weights in another number format.
#[pyfunction]
pub(crate) fn convert(py: Python<'_>, folder_in: PathBuf, folder_out: PathBuf, dtype: &str) -> PyResult<()> {
    enter(py, || models::convert(&folder_in, &folder_out, tensors::dtype(dtype)?))
}
