//! Settings of what training is for, and the reference that preferences are measured from.

use std::path::Path;

use super::config::TrainingConfig;
use crate::data::{Examples, Learned};
use crate::models::Model;
use crate::progress::Observer;
use crate::train::batches::Data;
use crate::train::checkpoint::Checkpoints;
use crate::train::evaluate::EvaluationPlan;
use crate::train::objective::{Kind, Objective};
use crate::train::reference::{self, Reference};
use crate::{Error, Result};

impl TrainingConfig {
    /// The loss.
    #[must_use]
    pub fn objective(&self) -> Objective {
        match self.objective {
            Kind::Sft => Objective::Sft,
            Kind::Dpo => Objective::Dpo {
                beta: self.dpo_beta as f32,
                label_smoothing: self.dpo_label_smoothing as f32,
            },
            Kind::Orpo => {
                Objective::Orpo { lambda: self.orpo_lambda as f32, learns_prompts: !self.mask_prompt }
            }
        }
    }

    /// What is learned from the rows.
    #[must_use]
    pub fn learned(&self) -> Learned {
        match self.objective {
            Kind::Sft => Learned::from_text(self.mask_prompt),
            Kind::Dpo | Kind::Orpo => Learned::Preferences,
        }
    }

    /// Checks what belongs to some objectives only.
    ///
    /// # Errors
    /// The first key out of range, or that the objective has no use for.
    pub(super) fn validate_objective(&self) -> Result<()> {
        let (beta, smoothing, lambda) = (self.dpo_beta, self.dpo_label_smoothing, self.orpo_lambda);
        let checks = [
            ("dpo_beta", beta, beta > 0.0 && beta.is_finite(), "above 0"),
            ("dpo_label_smoothing", smoothing, (0.0..0.5).contains(&smoothing), "0 to below 0.5"),
            ("orpo_lambda", lambda, lambda > 0.0 && lambda.is_finite(), "above 0"),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        let default = Self::default();
        for (key, differs, objective) in [
            ("dpo_beta", beta != default.dpo_beta, Kind::Dpo),
            ("dpo_label_smoothing", smoothing != default.dpo_label_smoothing, Kind::Dpo),
            ("orpo_lambda", lambda != default.orpo_lambda, Kind::Orpo),
        ] {
            if differs && self.objective != objective {
                return Err(Error::Config(format!(
                    "{key} is for objective \"{}\", not for \"{}\"",
                    objective.name(),
                    self.objective.name()
                )));
            }
        }
        if self.packing && self.objective != Kind::Sft {
            return Err(Error::Config(format!(
                "packing is for objective \"sft\", not for \"{}\": the answers of a pair are rows of their own",
                self.objective.name()
            )));
        }
        Ok(())
    }
}

/// Gives `data` the log-probabilities of `model`, which is as training finds it, where `objective` measures from
/// them: those in `folder` where they are still those of `fingerprint`, or else new ones, which the checkpoints then keep.
///
/// # Errors
/// What MLX raises; [`Error::Interrupted`] when the observer stops it.
pub(super) fn with_reference(
    model: &dyn Model,
    data: Data,
    checkpoints: Checkpoints,
    (folder, fingerprint): (&Path, String),
    (objective, cut): (&Objective, &EvaluationPlan),
    observer: &mut dyn Observer,
) -> Result<(Data, Checkpoints)> {
    if !matches!(objective, Objective::Dpo { .. }) {
        return Ok((data, checkpoints));
    }
    let stored = Reference::stored(&folder.join(reference::FILE), &fingerprint);
    let fits = |values: &[f32], examples: &Examples| values.len() == examples.samples().len();
    let stored = stored.filter(|stored| fits(&stored.train, &data.train) && fits(&stored.valid, &data.valid));
    let (reference, checkpoints) = match stored {
        Some(reference) => (reference, checkpoints),
        None => {
            let mut of = |examples| reference::log_probabilities(model, examples, cut, observer);
            let reference = Reference { train: of(&data.train)?, valid: of(&data.valid)?, fingerprint };
            let checkpoints = checkpoints.with_companion(reference::FILE, reference.text()?);
            (reference, checkpoints)
        }
    };
    let Reference { train, valid, .. } = reference;
    let data = Data { train: data.train.with_reference(train), valid: data.valid.with_reference(valid) };
    Ok((data, checkpoints))
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
