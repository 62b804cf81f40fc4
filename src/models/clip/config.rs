//! `config.json` of CLIP and `SigLIP`, with Hugging Face's defaults.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::io::config;
use crate::kernels::activation::Activation;
use crate::{Error, Result};

/// Which of the two architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// CLIP.
    Clip,
    /// `SigLIP`.
    Siglip,
}

/// Sizes of a transformer.
#[derive(Debug, Clone)]
pub struct TowerConfig {
    /// Width of the residual stream.
    pub hidden: i32,
    /// Width of feed-forward layers.
    pub intermediate: i32,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: i32,
    /// Activation of feed-forward layers.
    pub activation: Activation,
    /// Epsilon of norms.
    pub norm_eps: f32,
}

/// The text tower.
#[derive(Debug, Clone)]
pub(super) struct TextConfig {
    pub(super) tower: TowerConfig,
    pub(super) vocab: i32,
    /// Longest text, in tokens.
    pub(super) context: i32,
    /// The token whose state is pooled by CLIP; 2 stands for the one with the highest id.
    pub(super) eos: i64,
    /// Size of the features.
    pub(super) projection: i32,
}

/// The image tower.
#[derive(Debug, Clone)]
pub(super) struct VisionConfig {
    pub(super) tower: TowerConfig,
    pub(super) channels: i32,
    pub(super) image_size: i32,
    pub(super) patch_size: i32,
}

/// Both towers.
#[derive(Debug, Clone)]
pub(super) struct ModelConfig {
    pub(super) kind: Kind,
    pub(super) text: TextConfig,
    pub(super) vision: VisionConfig,
    /// Initial logarithm of the temperature's inverse.
    pub(super) logit_scale: f32,
}

/// Keys of one tower.
#[derive(Debug, Deserialize)]
struct File {
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl ModelConfig {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// An unknown `model_type`, a model without one of the towers; a key of the wrong type or out of range.
    pub(super) fn parse(config: &Value) -> Result<Self> {
        let kind = match config::string(config, "model_type")? {
            "clip" => Kind::Clip,
            "siglip" => Kind::Siglip,
            "clip_text_model" | "siglip_text_model" => return Err(lacks("vision")),
            "clip_vision_model" | "siglip_vision_model" => return Err(lacks("text")),
            "siglip2" => {
                return Err(Error::ModelLoading(
                    "model_type \"siglip2\" (NaFlex) takes images of any shape, which is not supported; load a SigLIP 2 \
                     checkpoint of fixed resolution, such as siglip2-base-patch16-224"
                        .into(),
                ));
            }
            other => {
                return Err(Error::ModelLoading(format!(
                    "model_type \"{other}\" has no features of images and texts; supported are: clip, siglip"
                )));
            }
        };
        let text = tower_fields(config, "text", &text_defaults(kind))?;
        let vision = tower_fields(config, "vision", &vision_defaults(kind))?;
        let size = |json: &Value, key: &str, max: i32| config::size(key, integer(json, key)?, max);
        let projection = match kind {
            Kind::Clip => match &config["projection_dim"] {
                Value::Null => 512,
                _ => size(config, "projection_dim", 1 << 16)?,
            },
            Kind::Siglip => match &text["projection_size"] {
                Value::Null => size(&text, "hidden_size", 1 << 16)?,
                _ => size(&text, "projection_size", 1 << 16)?,
            },
        };
        let parsed = Self {
            kind,
            text: TextConfig {
                tower: TowerConfig::parse(&text).map_err(|error| within("text_config", &error))?,
                vocab: size(&text, "vocab_size", 1 << 24)?,
                context: size(&text, "max_position_embeddings", 1 << 16)?,
                eos: text["eos_token_id"].as_i64().unwrap_or(2),
                projection,
            },
            vision: VisionConfig {
                tower: TowerConfig::parse(&vision).map_err(|error| within("vision_config", &error))?,
                channels: size(&vision, "num_channels", 4)?,
                image_size: size(&square(&vision, "image_size")?, "image_size", 1 << 14)?,
                patch_size: size(&square(&vision, "patch_size")?, "patch_size", 1 << 10)?,
            },
            logit_scale: config["logit_scale_init_value"].as_f64().unwrap_or(2.6592) as f32,
        };
        let VisionConfig { image_size, patch_size, channels, .. } = parsed.vision;
        if image_size < patch_size {
            return Err(Error::ModelLoading(format!(
                "\"image_size\" is {image_size}, expected at least that of a patch, {patch_size}"
            )));
        }
        if channels != 3 {
            return Err(Error::ModelLoading(format!("\"num_channels\" is {channels}, expected 3 (RGB)")));
        }
        Ok(parsed)
    }
}

impl VisionConfig {
    /// Patches along one side of an image.
    pub(super) fn grid(&self) -> i32 {
        self.image_size / self.patch_size
    }
}

impl TowerConfig {
    fn parse(json: &Value) -> Result<Self> {
        let file: File = config::parse(json)?;
        let hidden = config::size("hidden_size", file.hidden_size, 1 << 16)?;
        let heads = config::size("num_attention_heads", file.num_attention_heads, 1 << 10)?;
        if hidden % heads != 0 {
            return Err(Error::ModelLoading(format!(
                "\"num_attention_heads\" is {heads}, which does not divide \"hidden_size\" {hidden}"
            )));
        }
        let layers = config::size("num_hidden_layers", file.num_hidden_layers, 1 << 10)?;
        Ok(Self {
            hidden,
            intermediate: config::size("intermediate_size", file.intermediate_size, 1 << 18)?,
            layers: layers.unsigned_abs() as usize,
            heads,
            activation: activation(&file.hidden_act)?,
            norm_eps: file.layer_norm_eps,
        })
    }
}

fn activation(name: &str) -> Result<Activation> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "silu" => Ok(Activation::Silu),
        other => Err(Error::ModelLoading(format!(
            "\"hidden_act\" is \"{other}\", expected \"quick_gelu\", \"gelu\", \"gelu_pytorch_tanh\" or \"silu\""
        ))),
    }
}

fn lacks(tower: &str) -> Error {
    Error::ModelLoading(format!(
        "the model has no {tower} tower, but features of images and texts need both; load the whole CLIP or SigLIP \
         checkpoint"
    ))
}

fn within(part: &str, error: &Error) -> Error {
    Error::ModelLoading(format!("{part}: {error}"))
}

/// The keys of one tower, those that are absent by default. Older files repeat them under `…_config_dict`, which
/// counts then.
fn tower_fields(config: &Value, tower: &str, defaults: &Value) -> Result<Value> {
    let dict = &config[format!("{tower}_config_dict")];
    let key = format!("{tower}_config");
    let stored = if dict.is_null() { &config[&key] } else { dict };
    let mut fields: Map<String, Value> = defaults.as_object().cloned().unwrap_or_default();
    match stored {
        Value::Object(stored) => fields.extend(stored.clone()),
        // What transformers writes if every key has its default.
        Value::Null if config.get(&key).is_some() => {}
        Value::Null => return Err(lacks(tower)),
        other => return Err(Error::ModelLoading(format!("\"{key}\" is {other}, expected an object"))),
    }
    Ok(Value::Object(fields))
}

fn text_defaults(kind: Kind) -> Value {
    match kind {
        Kind::Clip => json!({
            "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5, "eos_token_id": 49407,
        }),
        Kind::Siglip => json!({
            "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6, "eos_token_id": 49407,
        }),
    }
}

fn vision_defaults(kind: Kind) -> Value {
    let (patch_size, hidden_act, layer_norm_eps) = match kind {
        Kind::Clip => (32, "quick_gelu", 1e-5),
        Kind::Siglip => (16, "gelu_pytorch_tanh", 1e-6),
    };
    json!({
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": patch_size, "hidden_act": hidden_act,
        "layer_norm_eps": layer_norm_eps,
    })
}

/// The integer under `key`.
fn integer(json: &Value, key: &str) -> Result<i64> {
    json[key]
        .as_i64()
        .ok_or_else(|| Error::ModelLoading(format!("\"{key}\" is {}, expected a whole number", json[key])))
}

/// `json` with the side of a square in place of `[side, side]` under `key`.
fn square(json: &Value, key: &str) -> Result<Value> {
    let side = match json[key].as_array().map(Vec::as_slice) {
        None => json[key].clone(),
        Some([height, width]) if height == width => height.clone(),
        Some(_) => {
            return Err(Error::ModelLoading(format!(
                "\"{key}\" is {}, expected the side of a square",
                json[key]
            )));
        }
    };
    Ok(json!({ key: side }))
}
