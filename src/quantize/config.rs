//! Settings of a quantization.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::format::{self, LayerSetting, QuantizationMode};
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
    /// Channels of large activations are scaled up before their weights are rounded
    /// ([AWQ](https://arxiv.org/abs/2306.00978)).
    Awq,
    /// Scales and biases are trained towards the predictions of the original model, after another technique has chosen
    /// the codes ([`learned`](super::learned)).
    Learned,
    /// Formats are chosen layer by layer so that the model has a given size, and codes as `rounding` says.
    Mixed,
}

/// How calibration rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationRows {
    /// At random.
    Random,
    /// So that they stand for the others, by their embeddings ([`embed_rows`](crate::calibrate::embed_rows)).
    Auto,
}

/// Settings of a quantization. Defaults are those of [`Default`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, named by the user")]
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
    /// How calibration rows are chosen.
    pub calibration_rows: CalibrationRows,
    /// Damping of GPTQ: fraction of the mean diagonal of the Hessian that is added to its diagonal.
    pub damping: f64,
    /// Whether GPTQ rounds the weights of large activations first.
    pub act_order: bool,
    /// Whether layers see the outputs of the quantized layers before them in their block.
    pub true_sequential: bool,
    /// How weights are rounded after AWQ has scaled channels.
    pub awq_rounding: Technique,
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
    /// How codes are chosen where `technique` chooses formats.
    pub rounding: Technique,
    /// Stored bits per parameter of the whole model with mixed formats.
    pub target_bpw: Option<f64>,
    /// Size of the weights in bytes with mixed formats, in place of `target_bpw`.
    pub target_bytes: Option<u64>,
    /// Measured sensitivities: the `sensitivity.json` of an earlier run.
    pub sensitivity: Option<String>,
    /// Activation importance in place of calibration text: the `importance.safetensors` of an earlier run.
    pub importance: Option<String>,
    /// Whether the activation importance is saved with the model.
    pub save_importance: bool,
    /// Share of the range of activations that is moved into the weights ([SmoothQuant](super::smoothquant)); `None` for
    /// none.
    pub smooth_alpha: Option<f64>,
    /// Name of the preset that other settings were taken from.
    pub preset: Option<String>,
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
            calibration_rows: CalibrationRows::Random,
            damping: 0.01,
            act_order: true,
            true_sequential: true,
            awq_rounding: Technique::Rtn,
            learned_start: Technique::Gptq,
            learned_lr: 2e-3,
            learned_epochs: 2.0,
            learned_batch_size: 1,
            learned_temperature: 1.0,
            learned_top_k: 256,
            learned_grad_checkpoint: 0,
            rounding: Technique::Gptq,
            target_bpw: None,
            target_bytes: None,
            sensitivity: None,
            importance: None,
            save_importance: false,
            smooth_alpha: None,
            preset: None,
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
        if let Some(alpha) = self.smooth_alpha {
            if !(0.0..=1.0).contains(&alpha) {
                return Err(Error::Config(format!("smooth_alpha is {alpha}, expected a value from 0 to 1")));
            }
            if self.save_importance {
                return Err(Error::Config(
                    "save_importance and smooth_alpha are both set: the importance would be that of smoothed layers; \
                     save it in a run without smooth_alpha"
                        .into(),
                ));
            }
        }
        for (name, technique) in [("learned_start", self.learned_start), ("awq_rounding", self.awq_rounding)]
        {
            if !matches!(technique, Technique::Rtn | Technique::Gptq) {
                return Err(Error::Config(format!("{name}: expected rtn or gptq")));
            }
        }
        self.validate_target()
    }

    /// The calibration text, if there is any.
    ///
    /// # Errors
    /// None, where it is needed; both text and importance.
    pub(super) fn calibration(&self) -> Result<Option<&str>> {
        if self.calibration.is_some() && self.importance.is_some() {
            return Err(Error::Config(
                "importance takes the place of calibration text, and both are set: choose one (gptq needs calibration)"
                    .into(),
            ));
        }
        let needed = match (self.technique, self.layer_technique()) {
            (Technique::Learned, _) => Some("technique \"learned\""),
            (_, Technique::Gptq) => Some("technique \"gptq\""),
            (_, Technique::Awq) => Some("technique \"awq\""),
            (Technique::Mixed, _) if self.sensitivity.is_none() => Some("technique \"mixed\""),
            _ if self.save_importance => Some("save_importance"),
            _ if self.smooth_alpha.is_some() => Some("smooth_alpha"),
            _ => None,
        };
        match needed {
            Some(what) if self.calibration.is_none() => Err(Error::Config(format!(
                "{what} needs calibration text: set calibration (--calibration FILE)"
            ))),
            _ => Ok(self.calibration.as_deref()),
        }
    }

    fn validate_target(&self) -> Result<()> {
        let invalid = |why: &str| Err(Error::Config(why.to_owned()));
        let is_mixed = self.technique == Technique::Mixed;
        match (self.target_bpw, self.target_bytes) {
            (None, None) if is_mixed => {
                invalid("technique \"mixed\" needs a size: set target_bpw (--target-bpw 4.5) or target_bytes")
            }
            (Some(_), Some(_)) => invalid("target_bpw and target_bytes are both set: choose one"),
            (Some(_), None) | (None, Some(_)) if !is_mixed => {
                invalid("target_bpw and target_bytes are sizes for technique \"mixed\", which is not set")
            }
            (Some(bits), _) if !(bits > 0.0 && bits <= 16.0) => {
                invalid(&format!("target_bpw is {bits}, expected 2 to 16 bits per weight"))
            }
            _ if is_mixed && matches!(self.rounding, Technique::Mixed | Technique::Learned) => {
                invalid("rounding must be \"gptq\", \"awq\" or \"rtn\"")
            }
            _ if is_mixed && self.mode != QuantizationMode::Affine => invalid(
                "technique \"mixed\" chooses the formats itself: leave mode out, or fix layers with layers",
            ),
            _ if !is_mixed && self.sensitivity.is_some() => {
                invalid("sensitivity is for technique \"mixed\", which is not set")
            }
            _ => Ok(()),
        }
    }

    /// How the codes of a layer are chosen.
    pub(super) fn layer_technique(&self) -> Technique {
        match self.technique {
            Technique::Mixed => self.rounding,
            Technique::Learned => self.learned_start,
            technique => technique,
        }
    }

    /// Whether layers that have calibration text are rounded by GPTQ.
    pub(super) fn rounds_by_gptq(&self) -> bool {
        match self.layer_technique() {
            Technique::Awq => self.awq_rounding == Technique::Gptq,
            technique => technique == Technique::Gptq,
        }
    }

    /// Format of the layers of all blocks.
    ///
    /// # Errors
    /// Bits or groups that the format does not have.
    pub(super) fn format(&self) -> Result<Format> {
        let mode = self.mode.mode();
        let Some(format) = mode.float_format() else { return affine(self.bits, self.group_size) };
        // The default is nobody's choice.
        if ![format.bits(), Self::default().bits].contains(&self.bits) {
            return Err(Error::Config(format!(
                "bits is {}, but mode \"{}\" has {} bits",
                self.bits,
                mode.name(),
                format.bits()
            )));
        }
        Ok(format)
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
    fn mistakes_in_smoothing_name_key_and_remedy() {
        for alpha in [-0.1, 1.1, f64::NAN] {
            let config = QuantizeConfig { smooth_alpha: Some(alpha), ..QuantizeConfig::default() };
            let message = config.validate().unwrap_err().to_string();
            assert_eq!(message, format!("smooth_alpha is {alpha}, expected a value from 0 to 1"));
        }
        let rtn = Technique::Rtn;
        let config = QuantizeConfig { technique: rtn, smooth_alpha: Some(0.5), ..QuantizeConfig::default() };
        config.validate().unwrap();
        for importance in [None, Some("x".to_owned())] {
            let config = QuantizeConfig { importance, ..config.clone() };
            let message = config.calibration().unwrap_err().to_string();
            assert!(message.starts_with("smooth_alpha needs calibration text: set calibration"), "{message}");
        }
        let config = QuantizeConfig { save_importance: true, ..config };
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains("save it in a run without smooth_alpha"), "{message}");
    }

    #[test]
    fn mistakes_in_a_technique_name_key_and_remedy() {
        for (json, why) in [
            (r#"{"learned_lr": 0}"#, "learned_lr is 0"),
            (r#"{"learned_epochs": -1}"#, "learned_epochs is -1"),
            (r#"{"learned_temperature": 0}"#, "learned_temperature is 0"),
            (r#"{"learned_top_k": 0}"#, "learned_top_k is 0"),
            (r#"{"learned_batch_size": 0}"#, "learned_batch_size is 0"),
            (r#"{"learned_start": "learned"}"#, "learned_start: expected rtn or gptq"),
            (r#"{"awq_rounding": "awq"}"#, "awq_rounding: expected rtn or gptq"),
        ] {
            let config: QuantizeConfig = serde_json::from_str(json).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(why), "{json}: {message}");
        }
    }
}
