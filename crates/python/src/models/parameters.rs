//! Parameters of a model as Python sees them: with adapters merged, and with their zeros.

use std::collections::BTreeMap;

use efficientai_toolkit::kernels::linear::Weight;
use efficientai_toolkit::kernels::sparse::Unpacked;
use efficientai_toolkit::nn::Linear;
use efficientai_toolkit::{Error, Result, adapters, models};
use mlx_rs::Array;

/// Shapes of all parameters by name.
pub(super) fn shapes(model: &mut models::Model) -> Result<BTreeMap<String, Vec<i32>>> {
    let adapted = adapted(model)?;
    let mut sparse = BTreeMap::new();
    model.visit_weights(&mut |path, weight| {
        if let Weight::Sparse(matrix) = weight {
            let (rows, columns) = matrix.shape();
            // Of codes, as they are packed in words.
            let columns = matrix.format().map_or(columns, |format| columns * format.bits() / 32);
            sparse.insert(path.to_owned(), vec![rows as i32, columns as i32]);
        }
        Ok(())
    })?;
    let mut shapes = BTreeMap::new();
    let parameters: BTreeMap<_, _> = model.parameters().flatten().into_iter().collect();
    for (name, array) in parameters {
        let (path, leaf) = name.rsplit_once('.').unwrap_or_default();
        match (adapted.get(path), leaf) {
            (None, "weight") if sparse.contains_key(path) => {
                shapes.insert(name.to_string(), sparse[path].clone());
            }
            (None, _) | (Some(_), "bias") => {
                drop(shapes.insert(name.to_string(), array.shape().to_vec()));
            }
            (Some(layer), "weight") => {
                let (inputs, outputs) = layer.size();
                shapes.insert(name.to_string(), vec![outputs, inputs]);
            }
            // Parts of the merged weight.
            _ => {}
        }
    }
    Ok(shapes)
}

/// The parameter `name`.
///
/// # Errors
/// An unknown name.
pub(super) fn merged(model: &mut models::Model, name: &str) -> Result<Array> {
    if let Some(path) = name.strip_suffix(".weight")
        && let Some(layer) = adapted(model)?.get(path)
    {
        return adapters::merged_weight(layer);
    }
    if let Some(path) = name.strip_suffix(".weight")
        && let Some(weight) = unpacked(model, path)?
    {
        return Ok(weight);
    }
    let parameters = model.parameters().flatten();
    let found = parameters.get(name);
    let unknown = || Error::Config(format!("the model has no parameter \"{name}\""));
    Ok((*found.ok_or_else(unknown)?).clone())
}

/// The weight of the layer at `path` as it was before it was packed; `None` unless it is sparse.
fn unpacked(model: &mut models::Model, path: &str) -> Result<Option<Array>> {
    let mut found = None;
    model.visit_weights(&mut |visited, weight| {
        if let Weight::Sparse(matrix) = weight
            && visited == path
        {
            found = Some(match matrix.unpack() {
                Unpacked::Dense(weight) => weight,
                Unpacked::Quantized(codes, ..) => codes,
            });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Layers with low-rank matrices, by their key path.
pub(super) fn adapted(model: &mut models::Model) -> Result<BTreeMap<String, Linear>> {
    let mut adapted = BTreeMap::new();
    model.visit_linears(&mut |path, layer| {
        if layer.lora_a.is_some() {
            adapted.insert(path.to_owned(), layer.clone());
        }
        Ok(())
    })?;
    Ok(adapted)
}
