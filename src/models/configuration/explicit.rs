//! Configurations in which what a family takes for granted is written out, for programs with defaults of their own.

use serde_json::{Map, Value, json};

use super::rope::{layer_rotations, shared};
use super::shape::Shape;
use super::{Family, RopeKeys};
use crate::kernels::attention::Mask;
use crate::{Error, Result};

/// Returns `json` with the sizes, windows and rotations that a model of `family` has, under one name each:
/// `rope_theta` and `partial_rotary_factor` of the file, `rope_scaling` where rotations are scaled, `layer_types` and
/// `sliding_window` where layers slide.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range; sliding layers whose rotation is scaled.
pub(in crate::models) fn explicit(json: &Value, family: &Family) -> Result<Value> {
    let shape = Shape::parse(json, family)?;
    let mut explicit = json.clone();
    let Some(fields) = explicit.as_object_mut() else { return Ok(explicit) };
    let mut set = |key: &str, value: Value| drop(fields.insert(key.to_owned(), value));
    set("num_key_value_heads", shape.kv_heads.into());
    set("head_dim", shape.head_dim.into());
    set("tie_word_embeddings", shape.tied.into());
    for (key, default) in [
        ("max_position_embeddings", json!(family.max_position_embeddings)),
        (family.norm_eps.0, json!(family.norm_eps.1)),
    ] {
        if json.get(key).is_none() {
            set(key, default);
        }
    }
    let window = shape.masks().iter().find_map(|mask| match mask {
        Mask::Sliding(window) => Some(*window),
        Mask::Causal | Mask::Full => None,
    });
    set("sliding_window", window.map_or(Value::Null, Value::from));
    set("use_sliding_window", window.is_some().into());
    if window.is_some() {
        let name = |mask: &Mask| if *mask == Mask::Causal { "full_attention" } else { "sliding_attention" };
        set("layer_types", shape.masks().iter().map(name).collect());
    }
    let rotation = match family.rope {
        RopeKeys::PerLayerType => {
            let [full, sliding] = layer_rotations(json)?;
            if is_scaled(&sliding) {
                return Err(Error::Config(
                    "the rotation of sliding layers is scaled, which other formats cannot express".to_owned(),
                ));
            }
            set("rope_local_base_freq", theta(json, &sliding, "rope_local_base_freq", 10_000.0));
            full
        }
        _ => shared(json, family)?.1,
    };
    set("rope_theta", theta(json, &rotation, "rope_theta", family.rope_theta));
    if let Some(part) = rotation.get("partial_rotary_factor").filter(|part| !part.is_null()) {
        set("partial_rotary_factor", part.clone());
    }
    set("rope_scaling", if is_scaled(&rotation) { Value::Object(rotation) } else { Value::Null });
    fields.shift_remove("rope_parameters");
    Ok(explicit)
}

/// Whether the parameters of a rotation name another method than the default.
fn is_scaled(rotation: &Map<String, Value>) -> bool {
    let method = rotation.get("rope_type").or_else(|| rotation.get("type"));
    method.and_then(Value::as_str).is_some_and(|method| method != "default")
}

fn theta(json: &Value, rotation: &Map<String, Value>, key: &str, default: f64) -> Value {
    let given = rotation.get("rope_theta").or_else(|| json.get(key)).filter(|theta| !theta.is_null());
    given.cloned().unwrap_or_else(|| default.into())
}
