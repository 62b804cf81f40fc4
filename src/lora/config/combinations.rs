//! Validation of settings that belong to some methods only.

use super::init::{LoraInit, PromptInit};
use super::method::Method;
use super::training::TrainingConfig;
use crate::adapters::ranks::RankPattern;
use crate::kernels::quantized::Format;
use crate::{Error, Result};

impl TrainingConfig {
    /// Checks settings that belong to some methods only.
    ///
    /// # Errors
    /// The first key out of range, or not supported by the method.
    pub(super) fn validate_method(&self) -> Result<()> {
        let share = |value: f64| value > 0.0 && value < 1.0;
        let checks = [
            (
                "loraplus_lr_ratio",
                self.loraplus_lr_ratio.unwrap_or(1.0),
                self.loraplus_lr_ratio.is_none_or(|ratio| ratio > 0.0 && ratio.is_finite()),
                "above 0",
            ),
            ("adalora_delta_t", self.adalora_delta_t as f64, self.adalora_delta_t > 0, "above 0"),
            ("adalora_beta1", self.adalora_beta1, share(self.adalora_beta1), "above 0 and below 1"),
            ("adalora_beta2", self.adalora_beta2, share(self.adalora_beta2), "above 0 and below 1"),
            (
                "adalora_orth_reg_weight",
                self.adalora_orth_reg_weight,
                self.adalora_orth_reg_weight >= 0.0 && self.adalora_orth_reg_weight.is_finite(),
                "0 or more",
            ),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        let rank = self.lora_rank;
        if let Some(initial) = self.adalora_init_rank
            && (initial <= rank || initial > 1 << 16)
        {
            return Err(Error::Config(format!(
                "adalora_init_rank is {initial}, expected more than lora_rank ({rank}) and at most 65536"
            )));
        }
        self.check_combinations()?;
        self.validate_prompt()
    }

    /// Checks the settings of quantization-aware training.
    fn check_quantization(&self) -> Result<()> {
        let default = Self::default();
        let Some(bits) = self.qat_bits else {
            let given = [
                ("qat_group_size", self.qat_group_size != default.qat_group_size),
                ("qat_embedding_bits", self.qat_embedding_bits != default.qat_embedding_bits),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(Error::Config(format!("{key} needs qat_bits"))),
                None => Ok(()),
            };
        };
        for (key, bits) in [("qat_bits", bits), ("qat_embedding_bits", self.qat_embedding_bits)] {
            Format::affine(bits as usize, self.qat_group_size as usize)
                .map_err(|error| Error::Config(format!("{key}: {}", error.what())))?;
        }
        if self.bits.is_some() {
            return Err(Error::Config(
                "bits and qat_bits exclude each other: weights that are trained start unquantized".into(),
            ));
        }
        if self.lora_dropout > 0.0 {
            return Err(Error::Config(
                "lora_dropout and qat_bits exclude each other: the adapter is part of the weight that is rounded"
                    .into(),
            ));
        }
        Ok(())
    }

    fn check_combinations(&self) -> Result<()> {
        use Method::{Adalora, Dora, Full, Lora, PTuning, PrefixTuning, PromptTuning};
        let default = Self::default();
        let adalora_settings = |config: &Self| {
            [
                ("adalora_init_rank", config.adalora_init_rank.map(f64::from)),
                ("adalora_tinit", Some(config.adalora_tinit as f64)),
                ("adalora_tfinal", Some(config.adalora_tfinal as f64)),
                ("adalora_delta_t", Some(config.adalora_delta_t as f64)),
                ("adalora_beta1", Some(config.adalora_beta1)),
                ("adalora_beta2", Some(config.adalora_beta2)),
                ("adalora_orth_reg_weight", Some(config.adalora_orth_reg_weight)),
            ]
        };
        let adalora = adalora_settings(self).into_iter().zip(adalora_settings(&default));
        let adalora = adalora.map(|((key, value), (_, default))| (key, value != default, &[Adalora][..]));
        let others = [
            ("use_rslora", self.use_rslora, &[Lora, Dora][..]),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio.is_some(), &[Lora, Dora, Adalora]),
            ("lora_init", self.lora_init != LoraInit::Default, &[Lora]),
            ("init_adapter", self.init_adapter.is_some(), &[Lora, Dora, PromptTuning, PrefixTuning]),
            ("rank_pattern", self.rank_pattern.is_some(), &[Lora, Dora]),
            ("qat_bits", self.qat_bits.is_some(), &[Lora, Full]),
            ("bits", self.bits.is_some(), &[Lora, Dora, Adalora, PromptTuning, PrefixTuning, PTuning]),
        ];
        for (key, given, methods) in others.into_iter().chain(adalora).chain(self.prompt_settings()) {
            if given && !methods.contains(&self.method) {
                let names: Vec<String> =
                    methods.iter().map(|method| format!("\"{}\"", method.name())).collect();
                let why = if (key, self.method) == ("bits", Full) {
                    ": quantized weights cannot be trained"
                } else {
                    ""
                };
                return Err(Error::Config(format!(
                    "{key} is for method {}, not for \"{}\"{why}",
                    names.join(" or "),
                    self.method.name()
                )));
            }
        }
        for (key, given) in [
            ("lora_init", self.lora_init != LoraInit::Default),
            ("prompt_tuning_init", self.prompt_tuning_init != PromptInit::Random),
            ("prefix_projection", self.prefix_projection),
        ] {
            if self.init_adapter.is_some() && given {
                return Err(Error::Config(format!("{key} and init_adapter exclude each other")));
            }
        }
        if self.init_adapter.is_some() && self.rank_pattern.is_some() {
            return Err(Error::Config(
                "rank_pattern and init_adapter exclude each other: the adapter brings its ranks".into(),
            ));
        }
        self.check_quantization()?;
        RankPattern::new(self.initial_rank(), self.rank_pattern.as_ref()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> std::result::Result<TrainingConfig, String> {
        let config: TrainingConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn mistakes_name_key_and_remedy() {
        for (json, parts) in [
            (r#"{"lora_init": "pizza"}"#, ["lora_init is \"pizza\"", "pissa_niter_N"]),
            (r#"{"lora_init": "pissa_niter_0"}"#, ["pissa_niter_0", "from 1"]),
            (r#"{"lora_init": "pissa", "method": "dora"}"#, ["lora_init", "method \"lora\""]),
            (r#"{"lora_init": "pissa", "init_adapter": "x"}"#, ["lora_init", "exclude"]),
            (r#"{"loraplus_lr_ratio": 0}"#, ["loraplus_lr_ratio is 0", "above 0"]),
            (r#"{"loraplus_lr_ratio": 4, "method": "full"}"#, ["loraplus_lr_ratio", "not for \"full\""]),
            (r#"{"use_rslora": true, "method": "adalora"}"#, ["use_rslora", "\"lora\" or \"dora\""]),
            (r#"{"bits": 4, "method": "full"}"#, ["bits is for method", "cannot be trained"]),
            (r#"{"adalora_tinit": 5}"#, ["adalora_tinit is for method \"adalora\"", "\"lora\""]),
            (r#"{"method": "adalora", "adalora_init_rank": 8}"#, ["adalora_init_rank is 8", "lora_rank (8)"]),
            (r#"{"method": "adalora", "adalora_beta1": 1}"#, ["adalora_beta1 is 1", "below 1"]),
            (r#"{"method": "adalora", "rank_pattern": {}}"#, ["rank_pattern", "\"lora\" or \"dora\""]),
            (r#"{"rank_pattern": {"q_proj": 2}, "init_adapter": "x"}"#, ["rank_pattern", "exclude"]),
            (r#"{"rank_pattern": {"(q": 2}}"#, ["rank_pattern", "(q"]),
            (r#"{"rank_pattern": {"q_proj": -1}}"#, ["-1", "u32"]),
            (r#"{"qat_bits": 2, "method": "prompt_tuning"}"#, ["qat_bits", "\"lora\" or \"full\""]),
            (r#"{"qat_bits": 2, "method": "dora"}"#, ["qat_bits", "not for \"dora\""]),
            (r#"{"qat_bits": 7}"#, ["qat_bits", "7 bits"]),
            (r#"{"qat_bits": 4, "qat_group_size": 48}"#, ["qat_bits", "groups of 48"]),
            (r#"{"qat_bits": 4, "qat_embedding_bits": 1}"#, ["qat_embedding_bits", "1 bits"]),
            (r#"{"qat_bits": 4, "bits": 4}"#, ["bits and qat_bits", "exclude"]),
            (r#"{"qat_bits": 4, "lora_dropout": 0.1}"#, ["lora_dropout and qat_bits", "exclude"]),
            (r#"{"qat_group_size": 32}"#, ["qat_group_size", "needs qat_bits"]),
            (r#"{"method": "adalora", "init_adapter": "x"}"#, ["init_adapter", "not for \"adalora\""]),
        ] {
            let message = parse(json).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{json}: {message}");
        }
    }
}
