//! Loading the weights of a file into a model.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Dtype;
use serde_json::Value;

use super::architecture::{Architecture, FACTORS, architecture};
use super::{HeadCounts, Reader, TensorInfo, TensorType};
use crate::io::weights;
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

/// Whether the model at `path` is a single file.
#[must_use]
pub fn is_file(path: &Path) -> bool {
    path.exists() && !path.is_dir()
}

/// Loads the weights of the file `path`, described by `config`, into `model`, with numbers of `dtype`, or else of the
/// dtype of the file. Matrices in blocks that MLX has too stay packed. Returns the numbers of matrices of other types,
/// which became dense.
///
/// # Errors
/// A damaged file; missing or unexpected tensors, or tensors of the wrong shape, listed.
pub fn load(
    path: &Path,
    config: &Value,
    model: &mut dyn Network,
    dtype: Option<Dtype>,
) -> Result<BTreeMap<TensorType, usize>> {
    let mut reader = Reader::open(path)?;
    let architecture = architecture(&reader)?;
    let dtype = dtype.unwrap_or_else(|| own_dtype(&reader));
    let count = |key: &str| config[key].as_u64().unwrap_or(0) as usize;
    let heads = HeadCounts { queries: count("num_attention_heads"), keys: count("num_key_value_heads") };
    let mut loaded = Tensors::new();
    let mut formats = BTreeMap::new();
    let mut dense = BTreeMap::new();
    for (name, parameter) in largest_first(&reader, architecture)? {
        let (parts, format) = reader.array(&name, &parameter, architecture, heads, dtype)?;
        let (layer, _) = parameter.rsplit_once('.').unwrap_or_default();
        let named = |why: &str| Error::ModelLoading(format!("{}: tensor \"{name}\": {why}", path.display()));
        for (part, array) in parts {
            let parameter = if format.is_some() { format!("{layer}.{part}") } else { parameter.clone() };
            let mapped = model.map_weight(&parameter, array).map_err(|error| named(error.what()))?;
            for (parameter, array) in mapped {
                let array = match format {
                    // Products of MLX on a GPU want one dtype; those of the CPU read any.
                    Some(_) if part == "weight" || kernels::on_cpu() || array.dtype() == Dtype::Uint8 => {
                        array
                    }
                    None if model.keeps_dtype(&parameter) => array,
                    _ => array.as_dtype(dtype)?,
                };
                // Evaluated now, so that the stored copy is freed before the next tensor is read.
                kernels::eval([&array])?;
                if let (Some(format), Some((layer, _))) = (format, parameter.rsplit_once('.')) {
                    formats.insert(layer.to_owned(), format);
                }
                loaded.insert(parameter, array);
            }
        }
        let kind = reader.tensors()[&name].kind;
        if kind.is_quantized() && format.is_none() {
            *dense.entry(kind).or_insert(0) += 1;
        }
    }
    weights::fill(path, "metadata", model, loaded, &formats)?;
    Ok(dense)
}

/// Names of the tensors and of what they become, the largest first: while a tensor is read, its bytes are held twice,
/// which matters least before the others are in memory.
fn largest_first(reader: &Reader, architecture: &Architecture) -> Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    let mut unknown = Vec::new();
    for name in reader.tensors().keys().filter(|name| !FACTORS.contains(&name.as_str())) {
        match architecture.parameter_name(name) {
            Some(parameter) => names.push((name.clone(), parameter)),
            None => unknown.push(format!("\"{name}\"")),
        }
    }
    if !unknown.is_empty() {
        return Err(reader.error(&format!(
            "tensors that a model of architecture \"{}\" does not have: {}",
            architecture.name,
            weights::summarize(&unknown)
        )));
    }
    let size = |(name, _): &(String, String)| std::cmp::Reverse(reader.tensors()[name].bytes);
    names.sort_by_key(size);
    Ok(names)
}

/// The dtype of most numbers in matrices; bf16 where most are codes.
fn own_dtype(reader: &Reader) -> Dtype {
    let dtype = |info: &TensorInfo| match info.kind {
        TensorType::F32 => Dtype::Float32,
        TensorType::F16 => Dtype::Float16,
        _ => Dtype::Bfloat16,
    };
    let dtypes = [Dtype::Bfloat16, Dtype::Float16, Dtype::Float32];
    let numbers = |wanted: Dtype| -> usize {
        let matrices = reader.tensors().values().filter(|info| info.shape.len() > 1 && dtype(info) == wanted);
        matrices.map(|info| info.rows() * info.columns()).sum()
    };
    dtypes.into_iter().max_by_key(|&dtype| numbers(dtype)).unwrap_or(Dtype::Bfloat16)
}
