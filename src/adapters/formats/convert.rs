//! From one format of adapters to the other.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{FILES, Format, StoredAdapter, read, write};
use crate::io::config;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::models;
use crate::nn::Network;
use crate::{Error, Result};

/// What a conversion did.
#[derive(Debug, Clone, Serialize)]
pub struct ConversionReport {
    /// Format found.
    pub from: Format,
    /// Format written.
    pub to: Format,
    /// Layers with an adapter.
    pub layers: usize,
}

/// Writes the adapter in `source` to `target` in `format`, by default the one that it is not in; numbers keep their format.
/// With the folder of its `model`, of which `config.json` is enough, every matrix is checked against its layer, and
/// stacks of experts find their names.
///
/// # Errors
/// As [`read`]; an adapter that does not fit `model`; a `target` that cannot be written, or holds an adapter that
/// `existing` says to keep.
pub fn convert(
    source: &Path,
    target: &Path,
    format: Option<Format>,
    model: Option<&Path>,
    existing: IfExists,
) -> Result<ConversionReport> {
    if fs::canonicalize(target).is_ok_and(|to| fs::canonicalize(source).is_ok_and(|from| from == to)) {
        return Err(Error::Config(format!("output is the adapter's own folder, {}", target.display())));
    }
    let mut model = match model {
        Some(folder) => Some(models::create(&config::read(folder)?)?),
        None => None,
    };
    let (stored, from) = read(source, model.as_deref().map(|model| model as &dyn Network))?;
    let adapter = match stored {
        StoredAdapter::LowRank(adapter) => adapter,
        StoredAdapter::Full(_) => {
            return Err(Error::Config(format!(
                "{} holds plain parameters, not low-rank matrices: only a model folder can hold them elsewhere",
                source.display()
            )));
        }
        StoredAdapter::Prompt(_) => {
            return Err(Error::Config(format!(
                "{} holds virtual tokens, which only PEFT's format knows",
                source.display()
            )));
        }
    };
    let to = format.unwrap_or(match from {
        Format::Mlx => Format::Peft,
        Format::Peft => Format::Mlx,
    });
    if let Some(model) = &mut model {
        adapter.check(model.as_mut()).map_err(|problem| {
            Error::ModelLoading(format!("{} does not fit the model: {problem}", source.display()))
        })?;
    } else if to == Format::Mlx && adapter.layers.keys().any(|path| path.contains(".experts.")) {
        return Err(Error::Config(
            "the adapter sits on experts, which mlx-lm stacks: give model_path, the folder of their model"
                .into(),
        ));
    }
    let output = OutputFolder::open(target, &FILES, CHECKPOINTS, existing)?;
    let layers = adapter.layers.len();
    match model {
        Some(mut model) => write(output.folder(), &adapter, to, Some(model.as_mut()))?,
        None => write(output.folder(), &adapter, to, None)?,
    }
    Ok(ConversionReport { from, to, layers })
}
