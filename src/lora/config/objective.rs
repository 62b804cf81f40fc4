//! Settings of the training objective.

use super::training::TrainingConfig;
use crate::data::Labels;
use crate::train::text::objective::{Objective, ObjectiveKind};
use crate::train::text::task::TextTask;
use crate::{Error, Result};

impl TrainingConfig {
    /// Returns the training objective.
    #[must_use]
    pub fn objective(&self) -> Objective {
        match self.objective {
            ObjectiveKind::Sft => Objective::Sft,
            ObjectiveKind::Dpo => Objective::Dpo {
                beta: self.dpo_beta as f32,
                label_smoothing: self.dpo_label_smoothing as f32,
            },
            ObjectiveKind::Orpo => {
                Objective::Orpo { lambda: self.orpo_lambda as f32, train_on_prompts: !self.mask_prompt }
            }
        }
    }

    /// Returns the training task; `pad_id` is the padding token.
    #[must_use]
    pub fn task(&self, pad_id: u32) -> TextTask {
        let neftune_alpha = self.neftune_alpha.map(|alpha| alpha as f32);
        TextTask { objective: self.objective(), neftune_alpha, pad_id }
    }

    /// Returns which tokens are targets.
    #[must_use]
    pub fn labels(&self) -> Labels {
        match self.objective {
            ObjectiveKind::Sft => Labels::from_mask_prompt(self.mask_prompt),
            ObjectiveKind::Dpo | ObjectiveKind::Orpo => Labels::PreferencePairs,
        }
    }

    /// Checks settings that belong to some objectives only.
    ///
    /// # Errors
    /// The first key out of range, or not supported by the objective.
    pub(super) fn validate_objective(&self) -> Result<()> {
        let (beta, smoothing, lambda) = (self.dpo_beta, self.dpo_label_smoothing, self.orpo_lambda);
        let alpha = self.neftune_alpha.unwrap_or(1.0);
        let checks = [
            ("dpo_beta", beta, beta > 0.0 && beta.is_finite(), "above 0"),
            ("dpo_label_smoothing", smoothing, (0.0..0.5).contains(&smoothing), "0 to below 0.5"),
            ("orpo_lambda", lambda, lambda > 0.0 && lambda.is_finite(), "above 0"),
            ("neftune_alpha", alpha, alpha > 0.0 && alpha.is_finite(), "above 0"),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        let of_one = |config: &Self| {
            [
                ("dpo_beta", ObjectiveKind::Dpo, Some(config.dpo_beta)),
                ("dpo_label_smoothing", ObjectiveKind::Dpo, Some(config.dpo_label_smoothing)),
                ("orpo_lambda", ObjectiveKind::Orpo, Some(config.orpo_lambda)),
            ]
        };
        for (given, default) in of_one(self).into_iter().zip(of_one(&Self::default())) {
            let (key, objective, _) = given;
            if given != default && self.objective != objective {
                return Err(Error::Config(format!(
                    "{key} is for objective \"{}\", not for \"{}\"",
                    objective.name(),
                    self.objective.name()
                )));
            }
        }
        if self.packing && self.objective != ObjectiveKind::Sft {
            return Err(Error::Config(format!(
                "packing is for objective \"sft\", not for \"{}\": the answers of a pair are rows of their own",
                self.objective.name()
            )));
        }
        if self.streaming && self.objective == ObjectiveKind::Dpo {
            return Err(Error::Config(
                "streaming is not for objective \"dpo\", which reads every row before the first step; \"orpo\" does not"
                    .into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_key_and_remedy() {
        for (json, parts) in [
            (r#"{"objective": "ppo"}"#, ["ppo", "`orpo`"]),
            (r#"{"objective": "dpo", "dpo_beta": 0}"#, ["dpo_beta is 0", "above 0"]),
            (
                r#"{"objective": "dpo", "dpo_label_smoothing": 0.5}"#,
                ["dpo_label_smoothing is 0.5", "below 0.5"],
            ),
            (r#"{"objective": "orpo", "orpo_lambda": -1}"#, ["orpo_lambda is -1", "above 0"]),
            (r#"{"dpo_beta": 0.2}"#, ["dpo_beta is for objective \"dpo\"", "not for \"sft\""]),
            (
                r#"{"objective": "dpo", "orpo_lambda": 0.2}"#,
                ["orpo_lambda is for objective \"orpo\"", "\"dpo\""],
            ),
            (r#"{"objective": "orpo", "packing": true}"#, ["packing is for objective \"sft\"", "pair"]),
        ] {
            let message = match serde_json::from_str::<TrainingConfig>(json) {
                Ok(config) => config.validate().unwrap_err().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(parts.iter().all(|part| message.contains(part)), "{json}: {message}");
        }
    }
}
