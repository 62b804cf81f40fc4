//! Conversion of adapters between file formats.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::files::{FILES, check, read, write};
use super::format::Format;
use super::stored::StoredAdapter;
use crate::adapters::adapter::Adapter;
use crate::io::checkpoint;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::models;
use crate::nn::Network;
use crate::{Error, Result};

/// Summary of a conversion.
#[derive(Debug, Clone, Serialize)]
pub struct ConversionReport {
    /// Format that was read.
    pub from: Format,
    /// Format that was written.
    pub to: Format,
    /// Number of adapted layers.
    pub layers: usize,
}

/// Converts the adapter in `source` to `format`, by default the other one, and writes it to `target`. Dtypes
/// are kept. If `model`, a model folder of which `config.json` suffices, is given, the matrices are checked
/// against its layers, and stacked experts are mapped to them. Whole modules that equal its weights are left out where
/// `format` knows none.
///
/// # Errors
/// Those of [`read`]; an adapter that does not fit `model`; a `target` that cannot be written or, with
/// [`IfExists::Fail`], holds an adapter.
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
    let folder = model;
    let mut model = match folder {
        Some(folder) => Some(models::create(&checkpoint::config(folder)?)?),
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
    let adapter = match folder.filter(|_| to == Format::Mlx && !adapter.whole.is_empty()) {
        Some(folder) => without_copies(adapter, folder)?,
        None => adapter,
    };
    check(&adapter, to)?;
    let output = OutputFolder::open(target, &FILES, CHECKPOINTS, existing)?;
    let layers = adapter.layers.len();
    match model {
        Some(mut model) => write(output.folder(), &adapter, to, Some(model.as_mut()))?,
        None => write(output.folder(), &adapter, to, None)?,
    }
    Ok(ConversionReport { from, to, layers })
}

/// Returns `adapter` without the whole modules that equal those of the model in `folder`, such as the weight that PEFT
/// saves below an adapted head.
fn without_copies(adapter: Adapter, folder: &Path) -> Result<Adapter> {
    let mut model = models::load(folder, None, None)?;
    adapter.attach(model.as_mut()).map_err(Error::ModelLoading)?;
    let whole = Adapter::from_network(model.as_mut(), None)?.whole;
    Ok(Adapter { whole, ..adapter })
}
