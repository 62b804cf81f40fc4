//! Settings of a quantization.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::format;
use crate::kernels::quantized::Format;
use crate::{Error, Result};

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Technique {
    /// Round to nearest.
    Rtn,
    /// Rounding errors are compensated by the weights that are rounded later
    /// ([GPTQ](https://arxiv.org/abs/2210.17323)).
    Gptq,
    /// Scales and biases are trained towards the predictions of the original model, after another technique has chosen
    /// the codes ([`learned`](super::learned)).
    Learned,
}

/// Kind of format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationMode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// 4-bit floating-point numbers with a power of two per group of 32.
    Mxfp4,
}

/// The format of some layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayerSetting {
    /// Bits per weight.
    Bits(usize),
    /// `6`, `4/32`, `mxfp4` or `dense`.
    Name(String),
}

/// Settings of a quantization. Defaults are those of [`Default`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizeConfig {
    /// Model folder.
    pub model_path: Option<String>,
    /// Output folder.
    pub output: Option<String>,
    /// How codes are chosen.
    pub technique: Technique,
    /// Bits per weight of the layers of all blocks.
    pub bits: usize,
    /// Consecutive weights that share a scale and a bias.
    pub group_size: usize,
    /// Kind of format of the layers of all blocks; floating-point formats have their own bits and groups.
    pub mode: QuantizationMode,
    /// Bits per weight of embeddings and output head.
    pub embedding_bits: usize,
    /// Formats of layers by pattern; the last match counts.
    pub layers: IndexMap<String, LayerSetting>,
    /// Whether the range of each group is searched, and not that of its smallest and largest weight.
    pub range_search: bool,
    /// Calibration text: a file or folder of data.
    pub calibration: Option<String>,
    /// Maximum number of calibration sequences.
    pub calibration_sequences: usize,
    /// Tokens per calibration sequence.
    pub sequence_length: usize,
    /// Damping of GPTQ: fraction of the mean diagonal of the Hessian that is added to its diagonal.
    pub damping: f64,
    /// Whether GPTQ rounds the weights of large activations first.
    pub act_order: bool,
    /// Whether layers see the outputs of the quantized layers before them in their block.
    pub true_sequential: bool,
    /// Technique that chooses the codes before scales and biases are learned.
    pub learned_start: Technique,
    /// Peak learning rate of learned scales and biases, relative to the scales.
    pub learned_lr: f64,
    /// Epochs over the calibration sequences in which scales and biases are learned.
    pub learned_epochs: f64,
    /// Calibration sequences per learning step.
    pub learned_batch_size: usize,
    /// Temperature of the predictions that are learned from.
    pub learned_temperature: f64,
    /// Number of most likely tokens whose predictions are stored and learned from.
    pub learned_top_k: usize,
    /// Blocks per gradient checkpoint while scales and biases are learned; 0 keeps all activations.
    pub learned_grad_checkpoint: usize,
    /// Whether quantized weights are dequantized first.
    pub dequantize: bool,
    /// Seed of the order of calibration rows.
    pub seed: u64,
    /// Whether to continue an interrupted run.
    pub resume: bool,
    /// Whether to replace an earlier result.
    pub overwrite: bool,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self {
            model_path: None,
            output: None,
            technique: Technique::Gptq,
            bits: 4,
            group_size: 64,
            mode: QuantizationMode::Affine,
            embedding_bits: 8,
            layers: IndexMap::new(),
            range_search: true,
            calibration: None,
            calibration_sequences: 64,
            sequence_length: 512,
            damping: 0.01,
            act_order: true,
            true_sequential: true,
            learned_start: Technique::Gptq,
            learned_lr: 2e-3,
            learned_epochs: 2.0,
            learned_batch_size: 1,
            learned_temperature: 1.0,
            learned_top_k: 256,
            learned_grad_checkpoint: 0,
            dequantize: false,
            seed: 0,
            resume: false,
            overwrite: false,
        }
    }
}

impl QuantizeConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first invalid value, by name.
    pub fn validate(&self) -> Result<()> {
        self.format()?;
        self.embedding_format()?;
        self.layer_formats()?;
        for (name, value, least) in [
            ("calibration_sequences", self.calibration_sequences, 1),
            ("sequence_length", self.sequence_length, 8),
            ("learned_batch_size", self.learned_batch_size, 1),
            ("learned_top_k", self.learned_top_k, 1),
        ] {
            if value < least {
                return Err(Error::Config(format!("{name} is {value}, expected at least {least}")));
            }
        }
        if !(self.damping > 0.0 && self.damping < 10.0) {
            return Err(Error::Config(format!(
                "damping is {}, expected a value between 0 and 10",
                self.damping
            )));
        }
        for (name, value) in [
            ("learned_lr", self.learned_lr),
            ("learned_epochs", self.learned_epochs),
            ("learned_temperature", self.learned_temperature),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::Config(format!("{name} is {value}, expected above 0")));
            }
        }
        if self.learned_start == Technique::Learned {
            return Err(Error::Config("learned_start is \"learned\", expected rtn or gptq".into()));
        }
        Ok(())
    }

    /// The calibration text, if there is any.
    ///
    /// # Errors
    /// None, where the technique needs it.
    pub(super) fn calibration(&self) -> Result<Option<&str>> {
        let technique = match self.technique {
            Technique::Rtn => return Ok(self.calibration.as_deref()),
            Technique::Gptq => "gptq",
            Technique::Learned => "learned",
        };
        if self.calibration.is_none() {
            return Err(Error::Config(format!(
                "technique \"{technique}\" needs calibration text: set calibration (--calibration FILE)"
            )));
        }
        Ok(self.calibration.as_deref())
    }

    /// The technique that chooses the codes.
    pub(super) fn rounding(&self) -> Technique {
        if self.technique == Technique::Learned { self.learned_start } else { self.technique }
    }

    /// Format of the layers of all blocks.
    ///
    /// # Errors
    /// Bits or groups that the format does not have.
    pub(super) fn format(&self) -> Result<Format> {
        match self.mode {
            QuantizationMode::Affine => affine(self.bits, self.group_size),
            QuantizationMode::Mxfp4 if self.bits == Format::MXFP4.bits() => Ok(Format::MXFP4),
            QuantizationMode::Mxfp4 => {
                Err(Error::Config(format!("bits is {}, but mode \"mxfp4\" has 4 bits", self.bits)))
            }
        }
    }

    /// Format of embeddings and output head.
    ///
    /// # Errors
    /// Bits or groups that do not exist.
    pub(super) fn embedding_format(&self) -> Result<Format> {
        affine(self.embedding_bits, self.group_size)
            .map_err(|error| Error::Config(format!("embedding_bits: {error}")))
    }

    /// Formats by pattern, in order.
    ///
    /// # Errors
    /// A pattern or a format that cannot be read.
    pub(super) fn layer_formats(&self) -> Result<Vec<(glob::Pattern, Option<Format>)>> {
        let parse = |(pattern, setting): (&String, &LayerSetting)| {
            let invalid =
                |error: &dyn std::fmt::Display| Error::Config(format!("layers: {pattern}: {error}"));
            let compiled = glob::Pattern::new(pattern).map_err(|error| invalid(&error))?;
            let format = match setting {
                LayerSetting::Bits(bits) => affine(*bits, self.group_size).map(Some),
                LayerSetting::Name(name) => format::parse(name, self.group_size),
            };
            Ok((compiled, format.map_err(|error| invalid(&error))?))
        };
        self.layers.iter().map(parse).collect()
    }
}

fn affine(bits: usize, group_size: usize) -> Result<Format> {
    Format::affine(bits, group_size).map_err(|error| Error::Config(error.what().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn techniques_that_calibrate_need_text() {
        for (technique, name) in [(Technique::Gptq, "gptq"), (Technique::Learned, "learned")] {
            let config = QuantizeConfig { technique, ..QuantizeConfig::default() };
            let message = config.calibration().unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("--calibration"), "{message}");
            let config = QuantizeConfig { calibration: Some("x".into()), ..config };
            assert_eq!(config.calibration().unwrap(), Some("x"));
        }
        let config = QuantizeConfig { technique: Technique::Rtn, ..QuantizeConfig::default() };
        assert_eq!(config.calibration().unwrap(), None);
    }

    #[test]
    fn mistakes_in_learning_name_key_and_remedy() {
        for (json, why) in [
            (r#"{"learned_lr": 0}"#, "learned_lr is 0"),
            (r#"{"learned_epochs": -1}"#, "learned_epochs is -1"),
            (r#"{"learned_temperature": 0}"#, "learned_temperature is 0"),
            (r#"{"learned_top_k": 0}"#, "learned_top_k is 0"),
            (r#"{"learned_batch_size": 0}"#, "learned_batch_size is 0"),
            (r#"{"learned_start": "learned"}"#, "expected rtn or gptq"),
        ] {
            let config: QuantizeConfig = serde_json::from_str(json).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(why), "{json}: {message}");
        }
    }
}
