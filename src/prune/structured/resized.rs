//! A smaller model with the parameters of a larger one.

use std::collections::BTreeMap;

use mlx_rs::Array;
use serde_json::Value;

use crate::io::weights;
use crate::models::{self, Model};
use crate::params::Tensors;
use crate::{Error, Result};

/// Creates the model that `file`, a `config.json`, describes, with the blocks number `kept` of `model`; `cut` returns what
/// remains of a parameter, by its name in `model`.
///
/// # Errors
/// A family that cannot express it: parameters or attention would differ; errors of `cut`.
pub(super) fn resized(
    model: &Model,
    file: &Value,
    kept: &[usize],
    cut: &dyn Fn(&str, &Array) -> Result<Array>,
) -> Result<Box<Model>> {
    let refused = |why: String| Error::Config(format!("config.json cannot express the result: {why}"));
    let mut smaller = models::create(file)?;
    // `None` for blocks that go.
    let mut prefixes: Vec<(String, Option<String>)> =
        (0..model.block_count()).map(|i| (model.block_path(i) + ".", None)).collect();
    for (position, &block) in kept.iter().enumerate() {
        prefixes[block].1 = Some(smaller.block_path(position) + ".");
    }
    let mut tensors = Tensors::new();
    for (name, array) in model.parameters().flatten().into_iter().collect::<BTreeMap<_, _>>() {
        let block =
            prefixes.iter().find_map(|(old, new)| Some((name.strip_prefix(old.as_str())?, new.as_deref())));
        let renamed = match block {
            None => name.to_string(),
            Some((leaf, Some(new))) => format!("{new}{leaf}"),
            Some((_, None)) => continue,
        };
        tensors.insert(renamed, cut(&name, array)?);
    }
    if tensors.keys().any(|name| smaller.tied_to(name).is_some()) {
        smaller.untie()?;
    }
    weights::assign(smaller.as_mut(), tensors).map_err(refused)?;
    for (position, &block) in kept.iter().enumerate() {
        let attention =
            |model: &Model, block| model.heads(block).map(|heads| (heads.mask, heads.rope.is_some()));
        if attention(smaller.as_ref(), position) != attention(model, block) {
            return Err(refused(format!("attention of {} would differ", model.block_path(block))));
        }
    }
    Ok(smaller)
}
