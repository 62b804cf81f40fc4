//! Validation of single settings.

use super::training::TrainingConfig;
use crate::data::Columns;
use crate::{Error, Result};

impl TrainingConfig {
    /// Checks the value of every setting.
    ///
    /// # Errors
    /// The first key out of range, with its value and the valid range.
    pub fn validate(&self) -> Result<()> {
        let share = 0.0..1.0;
        let checks = [
            ("max_seq_length", self.max_seq_length as f64, self.max_seq_length > 1, "above 1"),
            ("lora_rank", self.lora_rank.into(), (1..=1 << 16).contains(&self.lora_rank), "1 to 65536"),
            ("lora_alpha", self.lora_alpha, self.lora_alpha > 0.0, "above 0"),
            (
                "lora_dropout",
                self.lora_dropout,
                share.contains(&self.lora_dropout) && (self.lora_dropout as f32) < 1.0,
                "0 to below 1",
            ),
            ("num_layers", self.num_layers.unwrap_or(1).into(), self.num_layers != Some(0), "above 0"),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        if self.target_modules.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::Config("target_modules is empty, expected names such as q_proj".into()));
        }
        self.validate_method()?;
        self.validate_objective()?;
        if let Some(columns) = &self.columns {
            Columns::parse(columns)?;
        }
        if self.streaming && self.packing && self.iters.is_none() {
            return Err(Error::Config(
                "packing with streaming needs iters: how many packed rows there are is known only at the end of the data"
                    .into(),
            ));
        }
        if self.resume && self.overwrite {
            return Err(Error::Config("resume and overwrite exclude each other".into()));
        }
        if let Some(bits) = self.bits
            && ![2, 3, 4, 5, 6, 8].contains(&bits)
        {
            return Err(Error::Config(format!("bits is {bits}, expected 2, 3, 4, 5, 6 or 8")));
        }
        self.settings().validate()?;
        self.dtype.as_deref().map_or(Ok(()), |name| crate::io::tensors::dtype(name).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let config = TrainingConfig::default();
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainingConfig>(&json).unwrap(), config);
    }

    #[test]
    fn errors_name_key_value_and_range() {
        for (json, parts) in [
            (r#"{"lr": -1}"#, ["lr is -1", "above 0"]),
            (r#"{"lora_dropout": 1.0}"#, ["lora_dropout is 1", "below 1"]),
            (r#"{"learning_rate": 1}"#, ["learning_rate", "unknown field"]),
            (r#"{"method": "qlora"}"#, ["qlora", "`lora`"]),
            (r#"{"dtype": "int8"}"#, ["int8", "bfloat16"]),
            (r#"{"resume": true, "overwrite": true}"#, ["resume", "overwrite"]),
            (r#"{"streaming": true, "packing": true}"#, ["packing with streaming", "iters"]),
            (
                r#"{"streaming": true, "objective": "dpo"}"#,
                ["streaming is not for objective \"dpo\"", "\"orpo\" does not"],
            ),
            (r#"{"optimizer": "adamx"}"#, ["adamx", "`adafactor`"]),
            (r#"{"optimizer": "lion", "momentum": 0.9}"#, ["momentum", "\"sgd\" or \"muon\""]),
            (r#"{"schedule": "table"}"#, ["lr_table", "schedule \"table\""]),
            (r#"{"lr_table": ["0=1"]}"#, ["lr_table", "schedule \"table\""]),
            (r#"{"schedule": "table", "lr_table": ["1:2"]}"#, ["lr_table", "1:2"]),
            (r#"{"early_stopping_patience": 0}"#, ["early_stopping_patience is 0", "above 0"]),
            (r#"{"early_stopping_patience": 2, "eval_every": 0}"#, ["early_stopping_patience", "eval_every"]),
            (r#"{"early_stopping_threshold": -0.1}"#, ["early_stopping_threshold is -0.1", "0 or more"]),
            (r#"{"neftune_alpha": 0}"#, ["neftune_alpha is 0", "above 0"]),
            (r#"{"memory_budget_gb": 0}"#, ["memory_budget_gb is 0", "above 0"]),
            (r#"{"lr_cycles": 0}"#, ["lr_cycles is 0", "above 0"]),
            (r#"{"lr_min_ratio": 2.0}"#, ["lr_min_ratio is 2", "0 to 1"]),
        ] {
            let parsed = serde_json::from_str::<TrainingConfig>(json);
            let message = match parsed {
                Ok(config) => config.validate().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(parts.iter().all(|part| message.contains(part)), "{json}: {message}");
        }
    }
}
