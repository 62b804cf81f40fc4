//! Creating and loading models.

use std::path::Path;

use mlx_rs::Dtype;
use mlx_rs::module::ModuleParameters as _;
use serde_json::Value;

use super::config::ModelConfig;
use super::model::Clip;
use super::{open_clip, open_clip_config};
use crate::io::quantization::QuantizationConfig;
use crate::io::{checkpoint, shards, weights};
use crate::nn::Network as _;
use crate::{Error, Result, files, kernels};

/// Creates a model of zeros with the architecture of `config`, a parsed `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub fn create(config: &Value) -> Result<Clip> {
    let mut model = Clip::new(&ModelConfig::parse(config)?)?;
    model.visit_linears(&mut |path, layer| {
        path.clone_into(&mut layer.path);
        Ok(())
    })?;
    Ok(model)
}

/// Returns the `config.json` of the model in `folder`; of a checkpoint of `open_clip`, what it would have there.
///
/// # Errors
/// A missing file, or one that is not valid.
pub fn read_config(folder: &Path) -> Result<Value> {
    if open_clip::is_folder(folder) {
        open_clip_config::read(folder)
    } else {
        checkpoint::whole_config(folder)
    }
}

/// Loads the model in `folder`, in the format of Hugging Face or `open_clip`, with weights cast to `dtype`, or else to the
/// dtype of most of them. What MLX has quantized stays quantized.
///
/// # Errors
/// A broken configuration; weights that are missing, unexpected or of the wrong shape.
pub fn load(folder: &Path, dtype: Option<Dtype>) -> Result<Clip> {
    files::guard(folder, Error::ModelLoading, || {
        let config = read_config(folder)?;
        let (paths, description) = if open_clip::is_folder(folder) {
            (shards::open_clip_files(folder)?, open_clip::CONFIG)
        } else {
            (shards::files(folder)?, "config.json")
        };
        let named =
            |error: Error| Error::ModelLoading(format!("{}: {error}", folder.join(description).display()));
        let quantization = QuantizationConfig::parse(&config).map_err(named)?;
        let mut model = create(&config).map_err(named)?;
        let name_of = |name: &str| Some(name.to_owned());
        weights::load_files(folder, &paths, description, &mut model, dtype, &quantization, name_of)?;
        kernels::eval(model.parameters().flatten().values().copied())?;
        Ok(model)
    })
}
