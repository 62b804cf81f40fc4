//! GPTQ and AWQ checkpoints, as described by `quantization_config` in `config.json`.

use serde::Deserialize;
use serde_json::Value;

use crate::io::config;
use crate::kernels::quantized::Format;
use crate::{Error, Result};

/// Quantization of a checkpoint whose weights are packed by GPTQ or AWQ and have to be repacked for MLX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptqAwqConfig {
    /// Quantization method.
    pub method: PackingMethod,
    /// Input features per scale; `None` for one group per row. Layers may differ, which their tensors tell.
    pub group_size: Option<usize>,
}

/// How quantized weights are packed into 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackingMethod {
    /// [GPTQ](https://arxiv.org/abs/2210.17323)
    Gptq {
        /// Offset of the stored zero points: 1, or 0 in version 2 of the format.
        zero_offset: u8,
        /// Whether input features were sorted by activation size before grouping (`desc_act`).
        act_order: bool,
    },
    /// [AWQ](https://arxiv.org/abs/2306.00978), version `gemm`.
    Awq,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(alias = "w_bit")]
    bits: usize,
    #[serde(alias = "q_group_size")]
    group_size: i64,
    #[serde(default)]
    desc_act: bool,
    checkpoint_format: Option<String>,
    version: Option<String>,
}

impl GptqAwqConfig {
    /// Parses a `quantization_config`. Returns `None` for other quantization methods.
    ///
    /// # Errors
    /// An unsupported variant of the format, by key.
    pub(super) fn parse(config: &Value) -> Result<Option<Self>> {
        let Some(quant_method @ ("gptq" | "awq")) = config["quant_method"].as_str() else {
            return Ok(None);
        };
        let File { bits, group_size, desc_act, checkpoint_format, version } = config::parse(config)?;
        let wrong = |key: &str, found: String, expected: &str| {
            Err(Error::ModelLoading(format!("\"{key}\" is {found}, expected {expected}")))
        };
        let group_size = match usize::try_from(group_size) {
            Ok(size) if size > 0 => Some(size),
            _ if group_size == -1 => None,
            _ => return wrong("group_size", group_size.to_string(), "-1 or above 0"),
        };
        let method = if quant_method == "awq" {
            match version.as_deref() {
                None | Some("gemm" | "GEMM") => PackingMethod::Awq,
                Some(other) => return wrong("version", format!("\"{other}\""), "\"gemm\""),
            }
        } else {
            match checkpoint_format.as_deref() {
                None | Some("gptq") => PackingMethod::Gptq { zero_offset: 1, act_order: desc_act },
                Some("gptq_v2") => PackingMethod::Gptq { zero_offset: 0, act_order: desc_act },
                Some(other) => {
                    return wrong("checkpoint_format", format!("\"{other}\""), "\"gptq\" or \"gptq_v2\"");
                }
            }
        };
        match (method, bits) {
            (PackingMethod::Gptq { .. }, 2 | 3 | 4 | 8) | (PackingMethod::Awq, 4) => {}
            (PackingMethod::Awq, _) => return wrong("bits", bits.to_string(), "4"),
            _ => return wrong("bits", bits.to_string(), "2, 3, 4 or 8"),
        }
        Ok(Some(Self { method, group_size }))
    }
}

/// The MLX format that holds the same quantized weights, with groups that divide the original ones of `group`
/// features. Returns `None` if the groups are too small for MLX or not divisible.
pub(super) fn mlx_format(bits: usize, group: usize) -> Option<Format> {
    let part = [128, 64, 32].into_iter().find(|&part| group.is_multiple_of(part))?;
    Format::affine(bits, part).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_and_groups_are_told_apart() {
        let parse = |config: Value| GptqAwqConfig::parse(&config).unwrap().unwrap();
        let old = parse(json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}));
        assert_eq!(old.method, PackingMethod::Gptq { zero_offset: 1, act_order: true });
        let new =
            json!({"quant_method": "gptq", "bits": 3, "group_size": -1, "checkpoint_format": "gptq_v2"});
        let new = parse(new);
        assert_eq!(
            (new.method, new.group_size),
            (PackingMethod::Gptq { zero_offset: 0, act_order: false }, None)
        );
        let awq = parse(json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 256}));
        assert_eq!(awq.group_size, Some(256));
        assert_eq!(mlx_format(4, 256), Some(Format::affine(4, 128).unwrap()));
        assert_eq!(mlx_format(4, 16), None);
        assert_eq!(GptqAwqConfig::parse(&json!({"quant_method": "bitsandbytes"})).unwrap(), None);
    }

    #[test]
    fn unknown_variants_are_named() {
        for (extra, part) in [
            (json!({"checkpoint_format": "marlin"}), "marlin"),
            (json!({"bits": 5}), "\"bits\" is 5"),
            (json!({"group_size": 0}), "\"group_size\" is 0"),
            (json!({"quant_method": "awq", "version": "gemv"}), "gemv"),
            (json!({"quant_method": "awq", "bits": 8}), "expected 4"),
        ] {
            let mut config = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
            for (key, value) in extra.as_object().unwrap() {
                config[key] = value.clone();
            }
            let message = GptqAwqConfig::parse(&config).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
