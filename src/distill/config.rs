//! The configuration of distillation, with its defaults.

use serde::{Deserialize, Serialize};

use super::divergence::Divergence;
use super::selection::Selection;
use crate::lora::TrainingConfig;
use crate::train::text::objective::ObjectiveKind;
use crate::{Error, Result};

/// Kind of divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// `KL(teacher ‖ student)`.
    ForwardKl,
    /// `KL(student ‖ teacher)`.
    ReverseKl,
    /// Generalized Jensen–Shannon divergence.
    Js,
    /// `KL(teacher ‖ mixture)`.
    SkewedKl,
}

/// What distillation needs beside the settings of fine-tuning. Its defaults are authoritative: tests hold the Python
/// dataclass and the command line equal to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillConfig {
    /// Model folder or hub id of the teacher.
    pub teacher: Option<String>,
    /// Models that learn from the teacher one after the other, each from the one before, and the student from the last; a
    /// matter of the caller.
    pub through: Vec<String>,
    /// Divergence of the student from the teacher.
    pub loss: LossKind,
    /// Divisor of the logits of both; the divergence is multiplied by its square.
    pub temperature: f64,
    /// Weight of the divergence; that of the cross-entropy of the data is `1 - alpha`.
    pub alpha: f64,
    /// Weight of the teacher in the mixture of `js`.
    pub js_beta: f64,
    /// Weight of the teacher in the mixture of `skewed_kl`.
    pub skew: f64,
    /// Fraction of the batches whose answers the student writes itself.
    pub on_policy: f64,
    /// Maximum number of tokens of such an answer.
    pub max_new_tokens: usize,
    /// Which target tokens of a row count; `None` for all.
    pub select_tokens: Option<Selection>,
    /// Fraction of the target tokens of a row that count with `select_tokens`.
    pub select_share: f64,
    /// Folder for the teacher's most likely tokens at each position; `None` to run the teacher in every step.
    pub teacher_cache: Option<String>,
    /// Number of these tokens; all others count as one.
    pub teacher_top_k: usize,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            teacher: None,
            through: Vec::new(),
            loss: LossKind::ForwardKl,
            temperature: 1.0,
            alpha: 1.0,
            js_beta: 0.5,
            skew: 0.1,
            on_policy: 0.0,
            max_new_tokens: 128,
            select_tokens: None,
            select_share: 0.5,
            teacher_cache: None,
            teacher_top_k: 50,
        }
    }
}

impl DistillConfig {
    /// Checks every value, also against those of the `training`.
    ///
    /// # Errors
    /// The first key out of range, or that another one excludes.
    pub fn validate(&self, training: &TrainingConfig) -> Result<()> {
        let default = Self::default();
        let share = |x: f64| x > 0.0 && x < 1.0;
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature > 0.0 && self.temperature <= 100.0,
                "above 0, at most 100",
            ),
            ("alpha", self.alpha, self.alpha > 0.0 && self.alpha <= 1.0, "above 0, at most 1"),
            ("js_beta", self.js_beta, share(self.js_beta), "between 0 and 1"),
            ("skew", self.skew, share(self.skew), "between 0 and 1"),
            ("on_policy", self.on_policy, (0.0..=1.0).contains(&self.on_policy), "0 to 1"),
            (
                "max_new_tokens",
                self.max_new_tokens as f64,
                (1..=1 << 20).contains(&self.max_new_tokens),
                "1 to 1048576",
            ),
            (
                "select_share",
                self.select_share,
                self.select_share > 0.0 && self.select_share <= 1.0,
                "above 0, at most 1",
            ),
            (
                "teacher_top_k",
                self.teacher_top_k as f64,
                (1..=1024).contains(&self.teacher_top_k),
                "1 to 1024",
            ),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        let needs = [
            ("js_beta", self.js_beta != default.js_beta, self.loss == LossKind::Js, "loss \"js\""),
            ("skew", self.skew != default.skew, self.loss == LossKind::SkewedKl, "loss \"skewed_kl\""),
            (
                "max_new_tokens",
                self.max_new_tokens != default.max_new_tokens,
                self.on_policy > 0.0,
                "on_policy",
            ),
            (
                "select_share",
                self.select_share != default.select_share,
                self.select_tokens.is_some(),
                "select_tokens",
            ),
            (
                "teacher_top_k",
                self.teacher_top_k != default.teacher_top_k,
                self.teacher_cache.is_some(),
                "teacher_cache",
            ),
        ];
        if let Some((key, _, _, other)) = needs.iter().find(|(_, given, holds, _)| *given && !holds) {
            return Err(Error::Config(format!("{key} needs {other}")));
        }
        self.check_combinations(training)
    }

    fn check_combinations(&self, training: &TrainingConfig) -> Result<()> {
        if training.objective != ObjectiveKind::Sft {
            return Err(Error::Config(format!(
                "objective \"{}\" is for preference pairs, which are not distilled: leave it out",
                training.objective.name()
            )));
        }
        let excluded = [
            (
                self.on_policy > 0.0 && self.teacher_cache.is_some(),
                "on_policy",
                "teacher_cache",
                "the teacher has to read what the student writes",
            ),
            (
                self.on_policy > 0.0 && training.packing,
                "on_policy",
                "packing",
                "a packed row has several prompts",
            ),
            (
                self.on_policy > 0.0 && training.qat_bits.is_some(),
                "on_policy",
                "qat_bits",
                "samples would be those of unrounded weights",
            ),
            (
                self.teacher_cache.is_some() && training.streaming,
                "teacher_cache",
                "streaming",
                "the teacher reads every row before the first step",
            ),
        ];
        match excluded.into_iter().find(|(is, ..)| *is) {
            None => Ok(()),
            Some((_, one, other, reason)) => {
                Err(Error::Config(format!("{one} and {other} exclude each other: {reason}")))
            }
        }
    }

    /// The divergence.
    pub(super) fn divergence(&self) -> Divergence {
        match self.loss {
            LossKind::ForwardKl => Divergence::Forward,
            LossKind::ReverseKl => Divergence::Reverse,
            LossKind::Js => Divergence::JensenShannon { beta: self.js_beta as f32 },
            LossKind::SkewedKl => Divergence::Skewed { skew: self.skew as f32 },
        }
    }

    /// Returns the settings that affect the loss curve, which a resumed run must match.
    pub(super) fn identity(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            fields.shift_remove("teacher");
            fields.shift_remove("through");
            let cached = fields.shift_remove("teacher_cache").is_some_and(|folder| !folder.is_null());
            if !cached {
                fields.shift_remove("teacher_top_k");
            }
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let config = DistillConfig::default();
        config.validate(&TrainingConfig::default()).unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DistillConfig>(&json).unwrap(), config);
    }

    #[test]
    fn mistakes_name_key_and_remedy() {
        for (json, training, parts) in [
            (r#"{"loss": "kl"}"#, "{}", ["kl", "`reverse_kl`"]),
            (r#"{"temperature": 0}"#, "{}", ["temperature is 0", "above 0"]),
            (r#"{"alpha": 1.5}"#, "{}", ["alpha is 1.5", "at most 1"]),
            (r#"{"on_policy": -0.1}"#, "{}", ["on_policy is -0.1", "0 to 1"]),
            (r#"{"js_beta": 0.3}"#, "{}", ["js_beta needs", "\"js\""]),
            (r#"{"loss": "js", "skew": 0.3}"#, "{}", ["skew needs", "\"skewed_kl\""]),
            (r#"{"max_new_tokens": 9}"#, "{}", ["max_new_tokens needs", "on_policy"]),
            (r#"{"select_share": 0.3}"#, "{}", ["select_share needs", "select_tokens"]),
            (
                r#"{"select_tokens": "student_entropy", "select_share": 0}"#,
                "{}",
                ["select_share is 0", "above 0"],
            ),
            (r#"{"teacher_top_k": 9}"#, "{}", ["teacher_top_k needs", "teacher_cache"]),
            (
                r#"{"on_policy": 1, "teacher_cache": "c"}"#,
                "{}",
                ["on_policy and teacher_cache", "student writes"],
            ),
            (r#"{"on_policy": 1}"#, r#"{"packing": true}"#, ["on_policy and packing", "prompts"]),
            (r#"{"on_policy": 1}"#, r#"{"qat_bits": 4}"#, ["on_policy and qat_bits", "unrounded"]),
            (
                r#"{"teacher_cache": "c"}"#,
                r#"{"streaming": true}"#,
                ["teacher_cache and streaming", "every row"],
            ),
            ("{}", r#"{"objective": "dpo"}"#, ["objective \"dpo\"", "leave it out"]),
        ] {
            let message = match serde_json::from_str::<DistillConfig>(json) {
                Ok(config) => {
                    config.validate(&serde_json::from_str(training).unwrap()).unwrap_err().to_string()
                }
                Err(error) => error.to_string(),
            };
            assert!(parts.iter().all(|part| message.contains(part)), "{json}: {message}");
        }
    }
}
