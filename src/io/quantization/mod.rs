//! Quantization of a checkpoint, as described by its `config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{bitmask, config};
use crate::kernels::quantized::{Format, Mode};
use crate::{Error, Result};

mod describe;
mod gptq_awq;
mod repack;

pub use describe::describe;
pub use gptq_awq::{GptqAwqConfig, PackingMethod};
pub(super) use repack::{Repacked, repack};

/// Key of MLX's own formats. mlx-lm repeats the same settings under [`SHARED_KEY`].
const KEY: &str = "quantization";

/// Key shared by all other formats.
const SHARED_KEY: &str = "quantization_config";

/// What to do with weights of another method.
const WAY_OUT: &str = "load the checkpoint that was quantized, and quantize it here, or one in MLX's format, GPTQ, AWQ \
     or MXFP4";

/// Quantization format of every layer of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct QuantizationConfig {
    default: Option<Format>,
    layers: BTreeMap<String, Format>,
    gptq_awq: Option<GptqAwqConfig>,
    is_bitmask: bool,
}

#[derive(Debug, Deserialize)]
struct Entry {
    bits: usize,
    group_size: usize,
    #[serde(default = "affine")]
    mode: String,
}

fn affine() -> String {
    "affine".to_owned()
}

impl QuantizationConfig {
    /// Parses `"quantization": {"bits": 4, "group_size": 64, "model.layers.0.mlp.up_proj": {…}}`, or
    /// `quantization_config` of GPTQ, AWQ, MXFP4 and sparse checkpoints.
    ///
    /// # Errors
    /// An unsupported format or method.
    pub fn parse(config: &Value) -> Result<Self> {
        let Some(fields) = config[KEY].as_object() else { return Self::parse_gptq_awq(&config[SHARED_KEY]) };
        let default = Some(format(KEY, &config[KEY])?);
        // Other values, such as `false` for a layer left dense, are told by the tensors themselves.
        let layers = fields
            .iter()
            .filter(|(_, value)| value.is_object())
            .map(|(path, value)| Ok((path.clone(), format(path, value)?)))
            .collect::<Result<_>>()?;
        Ok(Self { default, layers, ..Self::default() })
    }

    fn parse_gptq_awq(config: &Value) -> Result<Self> {
        let method = match method(config) {
            None => return Ok(Self::default()),
            Some("mxfp4") => return Ok(Self { default: Some(Format::MXFP4), ..Self::default() }),
            Some(bitmask::METHOD) if bitmask::is_described(config) => {
                return Ok(Self { is_bitmask: true, ..Self::default() });
            }
            Some(method) => method,
        };
        let gptq_awq = GptqAwqConfig::parse(config)
            .map_err(|error| Error::ModelLoading(format!("\"{SHARED_KEY}\": {error}")))?;
        if gptq_awq.is_none() {
            return Err(Error::ModelLoading(format!(
                "\"{SHARED_KEY}\": weights quantized by \"{method}\" are not supported: {WAY_OUT}"
            )));
        }
        Ok(Self { gptq_awq, ..Self::default() })
    }

    /// Whether matrices are stored without their zeros, in the format sparse-bitmask.
    #[must_use]
    pub fn is_bitmask(&self) -> bool {
        self.is_bitmask
    }

    /// The packing of a GPTQ or AWQ checkpoint, which has to be repacked.
    #[must_use]
    pub fn gptq_awq(&self) -> Option<&GptqAwqConfig> {
        self.gptq_awq.as_ref()
    }

    /// Returns the format of the layer at `path`, which is stored under the name `stored`; `None` if the configuration
    /// declares no format of MLX for it.
    #[must_use]
    pub fn format_of(&self, path: &str, stored: &str) -> Option<Format> {
        self.layers.get(path).or_else(|| self.layers.get(stored)).copied().or(self.default)
    }
}

/// Name of the method in a `quantization_config`; old ones of bitsandbytes do not state it.
fn method(config: &Value) -> Option<&str> {
    let bitsandbytes = ["load_in_4bit", "load_in_8bit"].iter().any(|key| config[key] == true);
    config["quant_method"].as_str().or(bitsandbytes.then_some("bitsandbytes"))
}

fn format(path: &str, value: &Value) -> Result<Format> {
    let named = |why: String| Error::ModelLoading(format!("\"{path}\": {why}"));
    let Entry { bits, group_size, mode } = config::parse(value).map_err(|error| named(error.to_string()))?;
    match mode.as_str() {
        "affine" => Format::affine(bits, group_size).map_err(|error| named(error.what().to_owned())),
        other => Mode::ALL
            .into_iter()
            .find(|mode| mode.name() == other)
            .and_then(Mode::float_format)
            .filter(|format| (format.bits(), format.group_size()) == (bits, group_size))
            .ok_or_else(|| {
                named(format!(
                    "mode is \"{other}\" with {bits} bits and groups of {group_size}, expected affine, mxfp4 (4 bits, \
                     groups of 32), mxfp8 (8, 32) or nvfp4 (4, 16)"
                ))
            }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn layers_may_differ() {
        let config = json!({"quantization": {
            "bits": 4, "group_size": 64, "head": {"bits": 8, "group_size": 32}, "norm": false
        }});
        let quantization = QuantizationConfig::parse(&config).unwrap();
        assert_eq!(quantization.format_of("head", "head"), Some(Format::affine(8, 32).unwrap()));
        assert_eq!(quantization.format_of("other", "elsewhere"), Some(Format::affine(4, 64).unwrap()));
        assert_eq!(QuantizationConfig::parse(&json!({})).unwrap().format_of("head", "head"), None);
    }

    #[test]
    fn unknown_formats_are_named() {
        let message = |fields: Value| {
            QuantizationConfig::parse(&json!({ "quantization": fields })).unwrap_err().to_string()
        };
        assert!(message(json!({"bits": 7, "group_size": 64})).contains("quantization"));
        assert!(message(json!({"bits": 4})).contains("group_size"));
        assert!(message(json!({"bits": 4, "group_size": 16, "mode": "nf4"})).contains("nf4"));
        assert!(message(json!({"bits": 8, "group_size": 16, "mode": "nvfp4"})).contains("nvfp4 (4, 16)"));
    }

    #[test]
    fn unsupported_methods_are_named_with_the_way_out() {
        for method in ["bitsandbytes", "fp8", "compressed-tensors", "auto-round", "hqq", "anything"] {
            let config =
                json!({"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}});
            let message = QuantizationConfig::parse(&config).unwrap_err().to_string();
            assert!(message.contains(&format!("quantized by \"{method}\"")), "{message}");
            assert!(message.contains("load the checkpoint that was quantized"), "{message}");
        }
        let old = json!({"quantization_config": {"load_in_8bit": true}});
        assert!(QuantizationConfig::parse(&old).unwrap_err().to_string().contains("bitsandbytes"));
    }
}
