//! Attention mask of each layer, by the keys `sliding_window` and `layer_types`.

use serde_json::Value;

use super::{flag, unexpected};
use crate::io::config;
use crate::kernels::attention::Mask;
use crate::{Error, Result};

/// Which layers have a sliding window, and its default size.
#[derive(Debug, Clone, Copy)]
pub(in crate::models) enum Windows {
    /// None.
    Never,
    /// All, if there is a window; none by default.
    Always,
    /// Those of `layer_types`, else all, if there is a window.
    AlwaysByType(i64),
    /// All, if `use_sliding_window`.
    IfUsed(i64),
    /// Those of `layer_types`, else those from `max_window_layers` on; if `use_sliding_window`.
    FromLayer(i64),
    /// Those of `layer_types`, else all but every second.
    EveryOther(i64),
    /// Those of `layer_types`, else all but every `sliding_window_pattern`-th.
    Pattern(i64),
    /// Those of `layer_types`, else, if `use_sliding_window`, those of which this function says that they have no
    /// rotation.
    WithoutRope(fn(&Value, usize) -> Result<Vec<bool>>),
}

impl Windows {
    /// Returns the mask of each of `layers` layers.
    ///
    /// # Errors
    /// A key of the wrong type or out of range, or a layer that slides without a window.
    pub(super) fn masks(self, json: &Value, layers: usize) -> Result<Vec<Mask>> {
        match self {
            Self::Never => Ok(vec![Mask::Causal; layers]),
            Self::Always => Ok(vec![window(json, None)?.unwrap_or(Mask::Causal); layers]),
            Self::AlwaysByType(default) => {
                let window = window(json, Some(default))?;
                by_type(json, layers, window, || Ok(vec![window.is_some(); layers]))
            }
            Self::IfUsed(default) => {
                Ok(vec![window_if_used(json, Some(default))?.unwrap_or(Mask::Causal); layers])
            }
            Self::FromLayer(default) => {
                let window = window_if_used(json, Some(default))?;
                by_type(json, layers, window, || {
                    let first =
                        if window.is_some() { number(json, "max_window_layers", 28)? } else { i64::MAX };
                    Ok((0..layers).map(|i| i as i64 >= first).collect())
                })
            }
            Self::EveryOther(default) => {
                let window = window(json, Some(default))?;
                by_type(json, layers, window, || Ok((0..layers).map(|i| i % 2 == 0).collect()))
            }
            Self::Pattern(default) => {
                let window = window(json, Some(default))?;
                by_type(json, layers, window, || {
                    let key = "sliding_window_pattern";
                    let pattern = config::size(key, number(json, key, 6)?, i32::MAX)? as usize;
                    Ok((1..=layers).map(|i| i % pattern != 0).collect())
                })
            }
            Self::WithoutRope(has_rope) => {
                // The window of `layer_types` applies whether it is used or not.
                by_type(json, layers, window(json, None)?, || {
                    let slides = window_if_used(json, None)?.is_some();
                    Ok(has_rope(json, layers)?.into_iter().map(|has_rope| slides && !has_rope).collect())
                })
            }
        }
    }
}

/// Returns a mask with the `sliding_window`, if there is one.
fn window(json: &Value, default: Option<i64>) -> Result<Option<Mask>> {
    let key = "sliding_window";
    let window = match json.get(key) {
        None => default,
        Some(Value::Null) => None,
        Some(_) => Some(number(json, key, 0)?),
    };
    window.map(|window| Ok(Mask::Sliding(config::size(key, window, i32::MAX)?))).transpose()
}

/// As [`window`], if `use_sliding_window`.
fn window_if_used(json: &Value, default: Option<i64>) -> Result<Option<Mask>> {
    if flag(json, "use_sliding_window", false)? { window(json, default) } else { Ok(None) }
}

fn number(json: &Value, key: &str, default: i64) -> Result<i64> {
    match json.get(key) {
        None => Ok(default),
        Some(value) => value.as_i64().ok_or_else(|| unexpected(key, value, "a whole number")),
    }
}

/// Masks by `layer_types`, or else by `slides`.
fn by_type(
    json: &Value,
    layers: usize,
    window: Option<Mask>,
    slides: impl FnOnce() -> Result<Vec<bool>>,
) -> Result<Vec<Mask>> {
    let slides = match layer_types(json, layers)? {
        None => slides()?,
        Some(types) => types
            .iter()
            .map(|kind| match kind.as_str() {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(unknown_layer_type(other, "full_attention or sliding_attention")),
            })
            .collect::<Result<_>>()?,
    };
    let mask = |slides: bool| match (slides, window) {
        (false, _) => Ok(Mask::Causal),
        (true, Some(window)) => Ok(window),
        (true, None) => Err(Error::ModelLoading(
            "a layer slides, but \"sliding_window\" is missing or null, or \"use_sliding_window\" is false"
                .to_owned(),
        )),
    };
    slides.into_iter().map(mask).collect()
}

/// Returns `layer_types`, one per layer, under their present names.
///
/// # Errors
/// Anything but one string per layer.
pub(in crate::models) fn layer_types(json: &Value, layers: usize) -> Result<Option<Vec<String>>> {
    let key = "layer_types";
    let types = match &json[key] {
        Value::Null => return Ok(None),
        Value::Array(types) => types,
        other => return Err(unexpected(key, other, "a list")),
    };
    if types.len() != layers {
        return Err(Error::ModelLoading(format!(
            "\"{key}\" has {} entries for {layers} \"num_hidden_layers\"",
            types.len()
        )));
    }
    let name = |kind: &Value| match kind.as_str() {
        Some("attention") => Ok("full_attention".to_owned()),
        Some(name) => Ok(name.to_owned()),
        None => Err(unexpected(key, kind, "a string for each layer")),
    };
    types.iter().map(name).collect::<Result<_>>().map(Some)
}

/// The error for an unsupported entry of `layer_types`.
pub(in crate::models) fn unknown_layer_type(found: &str, expected: &str) -> Error {
    Error::ModelLoading(format!("\"layer_types\" has \"{found}\", expected {expected}"))
}
