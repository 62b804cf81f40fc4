//! Whole modules beside low-rank matrices (PEFT's `modules_to_save`): weights that stand in for those of the
//! model while an adapter is attached.

use std::collections::BTreeMap;

use mlx_rs::Array;

use crate::nn::overrides::Original;
use crate::nn::quantized::is_float;
use crate::nn::{Network, head};
use crate::{Result, kernels};

/// Path of the output head.
pub(super) const HEAD: &str = head::PATH;
pub(super) const HEAD_WEIGHT: &str = "lm_head.weight";
pub(super) const EMBEDDING_WEIGHT: &str = "model.embed_tokens.weight";

/// A parameter that an adapter brings along.
#[derive(Debug, Clone)]
pub struct WholeModule {
    /// In the shape of the parameter.
    pub value: Array,
    /// Whether it also replaces what is tied to it: the head with the embeddings, and the other way round.
    pub shared: bool,
}

/// Whole modules by the name of their parameter.
pub type WholeModules = BTreeMap<String, WholeModule>;

/// Makes the output head of `model` adaptable if an adapter with the modules `whole` changes it, with matrices if
/// `adapts_head`, or changes the embeddings alone that it is tied to.
pub(super) fn open_head(whole: &WholeModules, adapts_head: bool, model: &mut dyn Network) {
    let tied = is_tied(model);
    let leaves_head = |module: &WholeModule| tied && !module.shared;
    if adapts_head
        || whole.get(HEAD_WEIGHT).is_some_and(|module| !tied || !module.shared)
        || whole.get(EMBEDDING_WEIGHT).is_some_and(leaves_head)
    {
        model.set_head_adaptable(true);
    }
}

/// Whether `model` has embeddings but no head of its own.
fn is_tied(model: &dyn Network) -> bool {
    let parameters = model.parameters().flatten();
    parameters.contains_key(EMBEDDING_WEIGHT) && !parameters.contains_key(HEAD_WEIGHT)
}

/// Returns the modules `whole` by the parameters of `model` that they replace.
fn targets<'a>(whole: &'a WholeModules, model: &mut dyn Network) -> BTreeMap<String, &'a Array> {
    let untied = model.overrides_mut().is_some_and(|overrides| overrides.untied);
    let tied = is_tied(model);
    let mut targets = BTreeMap::new();
    for (name, WholeModule { value, shared }) in whole {
        let both: &[&str] = match name.as_str() {
            EMBEDDING_WEIGHT if untied && *shared => &[EMBEDDING_WEIGHT, HEAD_WEIGHT],
            HEAD_WEIGHT if untied && *shared => &[HEAD_WEIGHT, EMBEDDING_WEIGHT],
            HEAD_WEIGHT if tied => &[EMBEDDING_WEIGHT],
            name => &[name],
        };
        for (i, &target) in both.iter().enumerate() {
            // Modules of their own count more than what they share.
            if i == 0 || !whole.contains_key(target) {
                targets.insert(target.to_owned(), value);
            }
        }
    }
    targets
}

/// Describes the modules `whole` that do not fit `model`.
pub(super) fn problems(whole: &WholeModules, model: &mut dyn Network) -> Result<Vec<String>> {
    if whole.is_empty() {
        return Ok(Vec::new());
    }
    if model.overrides_mut().is_none() {
        return Ok(vec!["whole modules (modules_to_save) are supported by language models only".into()]);
    }
    let targets = targets(whole, model);
    let mut shapes: BTreeMap<String, Vec<i32>> = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, x)| (name.to_string(), x.shape().to_vec()))
        .collect();
    model.visit_weights(&mut |path, weight| {
        let (rows, columns) = weight.shape();
        shapes.insert(format!("{path}.weight"), vec![rows, columns]);
        Ok(())
    })?;
    let problem = |(name, value): (&String, &&Array)| match shapes.get(name) {
        None => Some(format!("there is no parameter \"{name}\"")),
        Some(shape) if shape != value.shape() => {
            Some(format!("\"{name}\" has shape {:?}, expected {shape:?} (modules_to_save)", value.shape()))
        }
        Some(_) => None,
    };
    Ok(targets.iter().filter_map(problem).collect())
}

/// Replaces the parameters of `model` by the modules `whole`, which fit it. What equals the model's own is left
/// as it is.
pub(super) fn replace(whole: &WholeModules, model: &mut dyn Network) -> Result<()> {
    if whole.is_empty() {
        return Ok(());
    }
    let targets = targets(whole, model);
    let dtype = model.dtype();
    let mut originals = BTreeMap::new();
    let mut others = targets.clone();
    model.visit_quantizable(&mut |path, weight| {
        let name = format!("{path}.weight");
        let Some(value) = others.remove(&name) else { return Ok(()) };
        let stored = weight.scales.as_ref().unwrap_or(&*weight.weight).dtype();
        let value = value.as_dtype(if is_float(stored) { stored } else { dtype })?;
        if weight.format.is_none() && equal(&value, weight.weight)? {
            return Ok(());
        }
        kernels::eval([&value])?;
        let value = std::mem::replace(weight.weight, value);
        let (scales, biases) = (weight.scales.take(), weight.biases.take());
        originals.insert(name, Original { value, scales, biases, format: weight.format.take() });
        Ok(())
    })?;
    let mut parameters = model.parameters_mut().flatten();
    for (name, value) in others {
        let Some(slot) = parameters.get_mut(name.as_str()) else { continue };
        let value = value.as_dtype(slot.dtype())?;
        if !equal(&value, slot)? {
            let value = std::mem::replace(&mut **slot, value);
            originals.insert(name, Original { value, scales: None, biases: None, format: None });
        }
    }
    drop(parameters);
    if let Some(overrides) = model.overrides_mut() {
        // What is replaced twice goes back to the model's own.
        for (name, original) in originals {
            overrides.originals.entry(name).or_insert(original);
        }
    }
    Ok(())
}

fn equal(a: &Array, b: &Array) -> Result<bool> {
    if a.shape() != b.shape() {
        return Ok(false);
    }
    let equal = a.eq(b)?.all(None)?;
    kernels::eval([&equal])?;
    Ok(equal.item_exact::<bool>())
}

/// Returns the modules that are attached to `model`.
pub(super) fn attached(model: &mut dyn Network) -> WholeModules {
    let Some(overrides) = model.overrides_mut() else { return WholeModules::new() };
    let names: Vec<String> = overrides.originals.keys().cloned().collect();
    let tied = is_tied(model);
    let parameters = model.parameters().flatten();
    let module = |name: String| {
        let value = (*parameters.get(name.as_str())?).clone();
        let shared = tied && name == EMBEDDING_WEIGHT;
        Some((name, WholeModule { value, shared }))
    };
    names.into_iter().filter_map(module).collect()
}

/// Gives `model` its own parameters back, and ties its head again.
pub(super) fn restore(model: &mut dyn Network) -> Result<()> {
    let Some(overrides) = model.overrides_mut() else { return Ok(()) };
    let mut originals = std::mem::take(&mut overrides.originals);
    if originals.is_empty() {
        // Nothing is unpacked for nothing.
        model.set_head_adaptable(false);
        return Ok(());
    }
    model.visit_quantizable(&mut |path, weight| {
        if let Some(original) = originals.remove(&format!("{path}.weight")) {
            (*weight.weight, *weight.scales, *weight.biases) =
                (original.value, original.scales, original.biases);
            *weight.format = original.format;
        }
        Ok(())
    })?;
    let mut parameters = model.parameters_mut().flatten();
    for (name, original) in originals {
        if let Some(slot) = parameters.get_mut(name.as_str()) {
            **slot = original.value;
        }
    }
    drop(parameters);
    model.set_head_adaptable(false);
    Ok(())
}

/// Makes what the attached modules have replaced, and a head of its own, part of `model`.
pub fn keep(model: &mut dyn Network) {
    if let Some(overrides) = model.overrides_mut() {
        overrides.originals.clear();
        overrides.untied = false;
    }
    model.set_head_adaptable(false);
}
