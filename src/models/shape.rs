//! Settings of `config.json` shared by all architectures: sizes, position embeddings and attention masks.

use serde::Deserialize;
use serde_json::Value;

use crate::io::config;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Mask;
use crate::kernels::norm::RmsNormOptions;
use crate::nn::{self, Heads, RmsNorm, Rope, RopeScaling};
use crate::{Error, Result};

#[derive(Debug, Clone, Deserialize)]
struct File {
    hidden_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    vocab_size: i64,
    rms_norm_eps: Option<f32>,
    norm_eps: Option<f32>,
    tie_word_embeddings: Option<bool>,
}

/// Defaults of absent keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) kv_heads: Option<i64>,
    /// `None` for `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<i64>,
    pub(super) norm_eps: f32,
    /// Added to the weights of norms: Gemma stores the difference from one.
    pub(super) norm_offset: f32,
    pub(super) tied: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { kv_heads: None, head_dim: None, norm_eps: 1e-6, norm_offset: 0.0, tied: false }
    }
}

/// Validated sizes.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) hidden: i32,
    pub(super) layers: usize,
    pub(super) heads: i32,
    pub(super) kv_heads: i32,
    pub(super) head_dim: i32,
    pub(super) vocab: i32,
    norm: RmsNormOptions,
    pub(super) tied: bool,
}

impl Shape {
    /// Parses `config.json`.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range.
    pub(super) fn parse(json: &Value, defaults: Defaults) -> Result<Self> {
        let file: File = config::parse(json)?;
        let hidden = config::size("hidden_size", file.hidden_size, 1 << 20)?;
        let heads = config::size("num_attention_heads", file.num_attention_heads, 1 << 14)?;
        let kv_heads = file.num_key_value_heads.or(defaults.kv_heads).unwrap_or(file.num_attention_heads);
        let kv_heads = config::size("num_key_value_heads", kv_heads, heads)?;
        let head_dim = file.head_dim.or(defaults.head_dim).unwrap_or_else(|| i64::from(hidden / heads));
        if heads % kv_heads != 0 {
            return Err(Error::ModelLoading(format!(
                "\"num_attention_heads\" ({heads}) is not a multiple of \"num_key_value_heads\" ({kv_heads})"
            )));
        }
        let norm_eps = file.rms_norm_eps.or(file.norm_eps).unwrap_or(defaults.norm_eps);
        if norm_eps.is_nan() || norm_eps < 0.0 {
            let message = format!("\"rms_norm_eps\" is {norm_eps}, expected 0 or more");
            return Err(Error::ModelLoading(message));
        }
        if head_dim % 2 != 0 {
            return Err(Error::ModelLoading(format!("\"head_dim\" is {head_dim}, expected an even number")));
        }
        Ok(Self {
            hidden,
            layers: config::size("num_hidden_layers", file.num_hidden_layers, 1 << 12)? as usize,
            heads,
            kv_heads,
            head_dim: config::size("head_dim", head_dim, 1 << 14)?,
            vocab: config::size("vocab_size", file.vocab_size, 1 << 24)?,
            norm: RmsNormOptions { eps: norm_eps, offset: defaults.norm_offset },
            tied: file.tie_word_embeddings.unwrap_or(defaults.tied),
        })
    }

    /// Creates a norm over `size` elements.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn norm(&self, size: i32) -> nn::Result<RmsNorm> {
        RmsNorm::new(size, self.norm)
    }

    /// Returns the hyperparameters of attention.
    pub(super) fn heads(&self, mask: Mask, rope: Option<Rope>) -> Heads {
        Heads::new(self.heads, self.kv_heads, self.head_dim, mask, rope)
    }

    /// Returns the rotary embedding of whole heads, as described by `rope_parameters` or `rope_scaling`.
    ///
    /// # Errors
    /// An unknown scaling method, or invalid values.
    pub(super) fn rope(&self, json: &Value, theta: f64) -> Result<Rope> {
        let fields = [&json["rope_parameters"], &json["rope_scaling"]].into_iter().find(|x| x.is_object());
        let theta = json["rope_theta"].as_f64().unwrap_or(theta);
        self.rope_from(json, fields.unwrap_or(&Value::Null), theta)
    }

    /// Returns the rotary embedding described by `fields`, with `json` and `theta` as defaults.
    ///
    /// # Errors
    /// Those of [`rope`](Self::rope).
    pub(super) fn rope_from(&self, json: &Value, fields: &Value, theta: f64) -> Result<Rope> {
        let rope = self.partial_rope(json, fields, theta, 1.0)?;
        if rope.long_rope_threshold().is_some() {
            let message = "\"rope_scaling\" is longrope, which this family does not have";
            return Err(Error::ModelLoading(message.to_owned()));
        }
        Ok(rope)
    }

    /// As [`rope_from`](Self::rope_from), for the fraction `partial` of each head; `LongRoPE` is supported.
    ///
    /// # Errors
    /// Those of [`rope`](Self::rope).
    pub(super) fn partial_rope(
        &self,
        json: &Value,
        fields: &Value,
        theta: f64,
        partial: f64,
    ) -> Result<Rope> {
        let theta = fields["rope_theta"].as_f64().unwrap_or(theta);
        let scaling = scaling(json, fields)?;
        let dims = (f64::from(self.head_dim) * partial) as i32;
        if !(partial <= 1.0 && dims >= 2 && dims % 2 == 0) {
            return Err(Error::ModelLoading(format!(
                "\"partial_rotary_factor\" {partial} of \"head_dim\" {} is {dims}, expected an even number",
                self.head_dim
            )));
        }
        if !(theta.is_finite() && theta > 0.0 && scaling.is_valid(dims)) {
            return Err(Error::ModelLoading(format!("RoPE cannot have theta {theta} and {scaling:?}")));
        }
        Ok(Rope::new(self.head_dim, dims, theta, &scaling))
    }
}

fn scaling(json: &Value, fields: &Value) -> Result<RopeScaling> {
    let mut fields = fields.clone();
    let Some(fields_map) = fields.as_object_mut() else { return Ok(RopeScaling::Default) };
    // Older files use "type".
    let kind = fields_map.get("rope_type").or_else(|| fields_map.get("type")).cloned();
    fields_map.insert("rope_type".into(), kind.unwrap_or_else(|| "default".into()));
    // As in transformers, the key of the model takes precedence.
    let original = "original_max_position_embeddings";
    let longest = &json["max_position_embeddings"];
    if !json[original].is_null() {
        fields_map.insert(original.into(), json[original].clone());
    } else if fields_map.get(original).is_none_or(Value::is_null) && longest.is_number() {
        fields_map.insert(original.into(), longest.clone());
    }
    let ratio = longest.as_f64().zip(fields_map.get(original).and_then(Value::as_f64));
    let long = fields_map["rope_type"] == "longrope" || fields_map["rope_type"] == "su";
    if long
        && fields_map.get("factor").is_none_or(Value::is_null)
        && let Some((longest, original)) = ratio
    {
        fields_map.insert("factor".into(), (longest / original).into());
    }
    config::parse(&fields).map_err(|error| Error::ModelLoading(format!("\"rope_scaling\": {error}")))
}

/// Returns the activation named by `key`.
///
/// # Errors
/// An unknown activation.
pub(super) fn activation(json: &Value, key: &str, default: Activation) -> Result<Activation> {
    match &json[key] {
        Value::Null => Ok(default),
        Value::String(name) if name == "silu" => Ok(Activation::Silu),
        Value::String(name) if name == "gelu" => Ok(Activation::Gelu),
        Value::String(name) if name == "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(Error::ModelLoading(format!(
            "\"{key}\" is {other}, expected \"silu\", \"gelu\" or \"gelu_pytorch_tanh\""
        ))),
    }
}

/// Returns a mask with the `sliding_window` of `json`, if it has one.
///
/// # Errors
/// A window out of range.
pub(super) fn window(json: &Value) -> Result<Option<Mask>> {
    let Some(window) = json.get("sliding_window").filter(|value| !value.is_null()) else { return Ok(None) };
    let window = window.as_i64().ok_or_else(|| {
        Error::ModelLoading(format!("\"sliding_window\" is {window}, expected a whole number"))
    })?;
    Ok(Some(Mask::Sliding(config::size("sliding_window", window, i32::MAX)?)))
}

/// Attention mask of each layer, by `layer_types` or else by `is_sliding`.
///
/// # Errors
/// An unknown type, a list of the wrong length, or a sliding layer without a window.
pub(super) fn masks(
    json: &Value,
    layers: usize,
    window: Option<Mask>,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<Vec<Mask>> {
    let sliding = match layer_types(json, layers)? {
        None => (0..layers).map(is_sliding).collect(),
        Some(types) => types
            .iter()
            .map(|kind| match kind.as_str() {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(unknown_layer_type(other, "full_attention or sliding_attention")),
            })
            .collect::<Result<Vec<bool>>>()?,
    };
    let mask = |sliding: bool| match (sliding, window) {
        (false, _) => Ok(Mask::Causal),
        (true, Some(window)) => Ok(window),
        (true, None) => {
            Err(Error::ModelLoading("\"sliding_window\" is missing, but a layer slides".to_owned()))
        }
    };
    sliding.into_iter().map(mask).collect()
}

/// Returns `layer_types`, one per layer.
///
/// # Errors
/// Anything but one string per layer.
pub(super) fn layer_types(json: &Value, layers: usize) -> Result<Option<Vec<String>>> {
    #[derive(Deserialize)]
    struct Types {
        layer_types: Option<Vec<String>>,
    }
    let types = config::parse::<Types>(json)?.layer_types;
    match types.as_ref().map(Vec::len) {
        Some(length) if length != layers => Err(Error::ModelLoading(format!(
            "\"layer_types\" has {length} entries for {layers} \"num_hidden_layers\""
        ))),
        _ => Ok(types),
    }
}

/// The error for an unsupported entry of `layer_types`.
pub(super) fn unknown_layer_type(found: &str, expected: &str) -> Error {
    Error::ModelLoading(format!("\"layer_types\" has \"{found}\", expected {expected}"))
}
