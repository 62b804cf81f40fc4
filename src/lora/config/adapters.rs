//! Adapter settings derived from the configuration.

use super::init::LoraInit;
use super::method::Method;
use super::training::TrainingConfig;
use crate::adapters::attach::{AdapterSettings, Init, Scaling};
use crate::train::optimizer::lr_multipliers::LrMultipliers;

impl TrainingConfig {
    /// Returns the initial rank of adapters, which for `AdaLoRA` is above `lora_rank`.
    #[must_use]
    pub fn initial_rank(&self) -> u32 {
        match self.method {
            // 12 for a rank of 8, as in PEFT.
            Method::Adalora => self.adalora_init_rank.unwrap_or(self.lora_rank + self.lora_rank.div_ceil(2)),
            _ => self.lora_rank,
        }
    }

    /// Returns the settings of new adapters.
    #[must_use]
    pub fn adapter_settings(&self) -> AdapterSettings<'_> {
        AdapterSettings {
            target_modules: self.target_modules.as_deref(),
            num_layers: self.num_layers,
            rank: self.initial_rank(),
            rank_pattern: self.rank_pattern.as_ref(),
            alpha: self.lora_alpha,
            scaling: match self.method {
                Method::Adalora => Scaling::SingularValues,
                _ if self.use_rslora => Scaling::SqrtRank,
                _ => Scaling::Rank,
            },
            dropout: self.lora_dropout as f32,
            init: match (self.method, self.lora_init) {
                (Method::Dora, _) => Init::Dora,
                (Method::Adalora, _) => Init::AdaLora,
                (_, LoraInit::Pissa(decomposition)) => Init::Pissa(decomposition),
                (_, LoraInit::Default) => Init::Lora,
            },
            seed: self.seed,
        }
    }

    /// Returns the learning-rate multipliers of [LoRA+](https://arxiv.org/abs/2402.12354): `loraplus_lr_ratio` for
    /// `B` and magnitudes, relative to `A`.
    #[must_use]
    pub fn lr_multipliers(&self) -> LrMultipliers {
        let faster = |ratio: f64| vec![(".lora_b", ratio), (".m", ratio)];
        self.loraplus_lr_ratio
            .map_or_else(LrMultipliers::default, |ratio| LrMultipliers::by_suffix(faster(ratio)))
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
    fn scales_and_ranks_are_those_of_peft() {
        let factor = |config: &TrainingConfig, rank| {
            let settings = config.adapter_settings();
            settings.scaling.factor(settings.alpha, rank)
        };
        let scale = |json: &str, rank| factor(&parse(json).unwrap(), rank);
        assert!((scale("{}", 8) - 2.0).abs() < 1e-12);
        assert!((scale("{}", 2) - 8.0).abs() < 1e-12);
        assert!((scale(r#"{"use_rslora": true}"#, 64) - 2.0).abs() < 1e-12);
        let adalora = parse(r#"{"method": "adalora"}"#).unwrap();
        assert_eq!(adalora.initial_rank(), 12);
        assert!((factor(&adalora, 12) - 16.0 / 12.00001).abs() < 1e-12);
    }

    #[test]
    fn starts_survive_json() {
        for name in ["default", "pissa", "pissa_niter_16"] {
            let config = parse(&format!(r#"{{"lora_init": "{name}"}}"#)).unwrap();
            assert_eq!(serde_json::to_value(&config).unwrap()["lora_init"], name);
        }
    }
}
