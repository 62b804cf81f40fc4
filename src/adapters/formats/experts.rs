//! Adapters of experts, which mlx-lm stacks into one tensor per matrix and layer: `A` is `[experts, rank,
//! in]`, `B` is `[experts, out, rank]`.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::ops::stack;

use crate::adapters::adapter::AdapterLayer;
use crate::adapters::names::layer_names;
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Result, nn};

/// Splits a stacked tensor into the matrices of each expert, transposed as in other layers and renamed to the
/// layers of `model`. Other tensors are returned unchanged.
///
/// # Errors
/// A stacked tensor without a model.
pub(super) fn unstack_experts(
    name: &str,
    tensor: Array,
    model: Option<&dyn Network>,
) -> std::result::Result<Vec<(String, Array)>, String> {
    let Some(model) = model else {
        return match tensor.ndim() {
            3 => Err(format!(
                "\"{name}\" is a stack of experts: give model_path, the folder of the model that knows their names"
            )),
            _ => Ok(vec![(name.to_owned(), tensor)]),
        };
    };
    let stacked = tensor.ndim() == 3;
    let parts = model.map_weight(name, tensor).map_err(|error| error.what().to_owned())?;
    let turned = |(name, part): (String, Array)| (name, if stacked { part.t() } else { part });
    Ok(parts.into_iter().map(turned).collect())
}

/// Returns the tensors of `layers` under mlx-lm's names. Experts of a stack without an adapter get zeros.
///
/// # Errors
/// Errors from MLX.
pub(super) fn stack_experts(
    mut layers: BTreeMap<String, AdapterLayer>,
    model: Option<&mut dyn Network>,
) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    if let Some(model) = model {
        let mut stacks: BTreeMap<String, Vec<Option<AdapterLayer>>> = BTreeMap::new();
        for path in layer_names(model)? {
            let (name, expert) = model.mlx_name(&path);
            let layer = layers.remove(&path);
            match (expert, layer) {
                // mlx-lm has no magnitudes for experts.
                (Some(_), Some(layer)) if layer.m.is_some() => insert(&mut tensors, &path, layer),
                (Some(_), layer) => stacks.entry(name).or_default().push(layer),
                (None, Some(layer)) => insert(&mut tensors, &name, layer),
                (None, None) => {}
            }
        }
        for (name, experts) in stacks {
            if let Some(first) = experts.iter().flatten().next().cloned() {
                let all = |part: fn(&AdapterLayer) -> &Array| {
                    let matrix = |expert: &Option<AdapterLayer>| match expert {
                        Some(layer) => Ok(part(layer).t()),
                        None => part(&first).t().multiply(Array::from_f32(0.0)),
                    };
                    stack(&experts.iter().map(matrix).collect::<nn::Result<Vec<_>>>()?, 0)
                };
                let (a, b) = (all(|layer| &layer.a)?, all(|layer| &layer.b)?);
                insert(&mut tensors, &name, AdapterLayer { a, b, ..first });
            }
        }
    }
    for (path, layer) in layers {
        insert(&mut tensors, &path, layer);
    }
    Ok(tensors)
}

fn insert(tensors: &mut Tensors, name: &str, AdapterLayer { a, b, m, .. }: AdapterLayer) {
    let parts = [("lora_a", Some(a)), ("lora_b", Some(b)), ("m", m)];
    tensors.extend(parts.into_iter().filter_map(|(leaf, part)| Some((format!("{name}.{leaf}"), part?))));
}
