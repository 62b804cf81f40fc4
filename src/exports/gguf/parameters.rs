//! The parameters of a model, as a checkpoint names them, with adapters merged.

use std::collections::BTreeMap;

use mlx_rs::module::ModuleParameters as _;
use mlx_rs::{Array, Dtype};

use crate::adapters::merged_weight;
use crate::kernels::linear::Weight;
use crate::kernels::quantized::{Format, PackedWeight, dequantize};
use crate::models::Model;
use crate::nn::Linear;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

/// Names of parameters that are part of a weight, or of an adapter that is merged.
const PARTS: [&str; 6] = ["scales", "biases", "lora_a", "lora_b", "lora_e", "m"];

/// A parameter.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    /// Name in a checkpoint.
    pub(super) name: String,
    /// Key path of its layer in the model.
    pub(super) path: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

/// What a parameter is stored as; arrays are shared with the model.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Dense(Array),
    Packed(Packed),
    /// A weight with low-rank matrices beside it.
    Adapted(Box<Linear>),
}

/// A quantized weight.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub(super) codes: Array,
    pub(super) scales: Array,
    pub(super) biases: Option<Array>,
    pub(super) format: Format,
}

impl Packed {
    fn view(&self) -> PackedWeight<'_> {
        let Self { codes, scales, biases, format } = self;
        PackedWeight { codes, scales, biases: biases.as_ref(), format: *format }
    }
}

impl Parameter {
    /// Whether it is a quantized weight.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.values, Values::Packed(_))
    }

    /// All numbers, row by row.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn read(&self) -> Result<Vec<f32>> {
        let array = match &self.values {
            Values::Dense(array) => array.as_dtype(Dtype::Float32)?,
            Values::Packed(packed) => dequantize(packed.view(), Dtype::Float32)?,
            Values::Adapted(layer) => merged_weight(layer)?,
        };
        floats(&array)
    }
}

/// The numbers of `array` in float32, row by row.
///
/// # Errors
/// Errors from MLX.
pub(super) fn floats(array: &Array) -> Result<Vec<f32>> {
    let rows = array.as_dtype(Dtype::Float32)?.contiguous()?;
    kernels::eval([&rows])?;
    Ok(rows.as_slice::<f32>().to_vec())
}

/// Lists the parameters of `model`, with the adapters in use as part of the weights.
///
/// # Errors
/// Virtual tokens, which are no part of a weight.
pub(super) fn list(model: &mut Model) -> Result<Vec<Parameter>> {
    if model.prompt_mut().is_some() {
        return Err(Error::Config(
            "virtual tokens (prompt tuning, prefix tuning) cannot be merged into weights: export the model without them"
                .into(),
        ));
    }
    let mut weights = weights(model)?;
    let mut found = Vec::new();
    let parameters: BTreeMap<_, _> = model.parameters().flatten().into_iter().collect();
    for (name, array) in parameters {
        let (path, leaf) = name.rsplit_once('.').unwrap_or(("", &name));
        if PARTS.contains(&leaf) {
            continue;
        }
        let named = Tensors::from([(name.to_string(), array.clone())]);
        let Some((checkpoint, array)) = model.export(named)?.into_iter().next() else { continue };
        let values = match leaf {
            "weight" => weights.remove(path).unwrap_or(Values::Dense(array)),
            _ => Values::Dense(array),
        };
        let shape = match &values {
            Values::Dense(array) => array.shape().iter().map(|&size| size as usize).collect(),
            Values::Packed(packed) => {
                let (rows, columns) = packed.view().shape()?;
                vec![rows, columns]
            }
            Values::Adapted(layer) => {
                let (inputs, outputs) = layer.size();
                vec![outputs as usize, inputs as usize]
            }
        };
        found.push(Parameter { name: checkpoint, path: path.to_owned(), shape, values });
    }
    Ok(found)
}

/// Weights that are packed or adapted, by the key path of their layer.
fn weights(model: &mut Model) -> Result<BTreeMap<String, Values>> {
    let mut weights = BTreeMap::new();
    model.visit_quantizable(&mut |path, weight| {
        if let Weight::Packed(PackedWeight { codes, scales, biases, format }) = weight.as_weight() {
            let (codes, scales, biases) = (codes.clone(), scales.clone(), biases.cloned());
            weights.insert(path.to_owned(), Values::Packed(Packed { codes, scales, biases, format }));
        }
        Ok(())
    })?;
    model.visit_linears(&mut |path, layer| {
        if layer.lora_a.is_some() {
            weights.insert(path.to_owned(), Values::Adapted(Box::new(layer.clone())));
        }
        Ok(())
    })?;
    Ok(weights)
}
