//! Validation of settings of virtual tokens.

use super::init::PromptInit;
use super::method::Method;
use super::training::TrainingConfig;
use crate::train::text::objective::ObjectiveKind;
use crate::{Error, Result};

/// Maximum number of virtual tokens, and maximum hidden size of their encoder.
const MAX_SIZE: u32 = 1 << 16;

impl TrainingConfig {
    /// Checks the settings of virtual tokens.
    ///
    /// # Errors
    /// The first key out of range.
    pub(super) fn validate_prompt(&self) -> Result<()> {
        for (key, value) in [
            ("num_virtual_tokens", self.num_virtual_tokens),
            ("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1)),
        ] {
            if !(1..=MAX_SIZE).contains(&value) {
                return Err(Error::Config(format!("{key} is {value}, expected 1 to {MAX_SIZE}")));
            }
        }
        let text = self.prompt_tuning_init_text.as_deref();
        match (self.prompt_tuning_init, text) {
            (PromptInit::Text, None | Some("")) => {
                let message = "prompt_tuning_init \"text\" needs prompt_tuning_init_text, which is empty";
                Err(Error::Config(message.into()))
            }
            (PromptInit::Random | PromptInit::SampleVocab, Some(_)) => {
                Err(Error::Config("prompt_tuning_init_text is for prompt_tuning_init \"text\" only".into()))
            }
            _ => Ok(()),
        }
    }

    /// Settings that are specific to virtual tokens or not supported with them: name, whether it is set, and
    /// methods that support it.
    pub(super) fn prompt_settings(&self) -> [(&'static str, bool, &'static [Method]); 11] {
        use Method::{Adalora, Dora, Full, Lora, PTuning, PrefixTuning, PromptTuning};
        const WITHOUT_PROMPT: &[Method] = &[Lora, Dora, Adalora, Full];
        let default = Self::default();
        let encoded: &[Method] = if self.prefix_projection { &[PTuning, PrefixTuning] } else { &[PTuning] };
        [
            (
                "num_virtual_tokens",
                self.num_virtual_tokens != default.num_virtual_tokens,
                &[PromptTuning, PTuning, PrefixTuning],
            ),
            ("prompt_tuning_init", self.prompt_tuning_init != PromptInit::Random, &[PromptTuning]),
            ("prompt_tuning_init_text", self.prompt_tuning_init_text.is_some(), &[PromptTuning]),
            ("prefix_projection", self.prefix_projection, &[PrefixTuning]),
            ("encoder_hidden_size", self.encoder_hidden_size.is_some(), encoded),
            ("target_modules", self.target_modules.is_some(), WITHOUT_PROMPT),
            ("num_layers", self.num_layers.is_some(), WITHOUT_PROMPT),
            ("lora_dropout", self.lora_dropout > 0.0, WITHOUT_PROMPT),
            ("packing", self.packing, WITHOUT_PROMPT),
            // What it measures from would be the model behind random virtual tokens.
            ("objective \"dpo\"", self.objective == ObjectiveKind::Dpo, WITHOUT_PROMPT),
            // Keys before a text enter every layer, so that no layer can be computed again from its input.
            (
                "grad_checkpoint",
                self.grad_checkpoint > 0,
                &[Lora, Dora, Adalora, Full, PromptTuning, PTuning],
            ),
        ]
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
            (r#"{"method": "p_tuning", "num_virtual_tokens": 0}"#, ["num_virtual_tokens is 0", "1 to 65536"]),
            (
                r#"{"num_virtual_tokens": 5}"#,
                ["num_virtual_tokens is for method \"prompt_tuning\"", "\"lora\""],
            ),
            (
                r#"{"method": "p_tuning", "encoder_hidden_size": 100000}"#,
                ["encoder_hidden_size is 100000", "65536"],
            ),
            (
                r#"{"method": "prefix_tuning", "encoder_hidden_size": 8}"#,
                ["encoder_hidden_size is for method \"p_tuning\"", "\"prefix_tuning\""],
            ),
            (
                r#"{"method": "prompt_tuning", "prompt_tuning_init": "text"}"#,
                ["prompt_tuning_init_text", "empty"],
            ),
            (
                r#"{"method": "prompt_tuning", "prompt_tuning_init_text": "a"}"#,
                ["prompt_tuning_init_text is for", "\"text\""],
            ),
            (r#"{"method": "prompt_tuning", "prompt_tuning_init": "words"}"#, ["words", "`sample_vocab`"]),
            (
                r#"{"method": "p_tuning", "prompt_tuning_init": "sample_vocab"}"#,
                ["prompt_tuning_init is for method \"prompt_tuning\"", "\"p_tuning\""],
            ),
            (
                r#"{"method": "p_tuning", "prefix_projection": true}"#,
                ["prefix_projection", "\"prefix_tuning\""],
            ),
            (r#"{"method": "prompt_tuning", "packing": true}"#, ["packing is for", "\"prompt_tuning\""]),
            (
                r#"{"method": "prompt_tuning", "objective": "dpo"}"#,
                ["objective \"dpo\"", "\"prompt_tuning\""],
            ),
            (
                r#"{"method": "prefix_tuning", "grad_checkpoint": 1}"#,
                ["grad_checkpoint", "\"prefix_tuning\""],
            ),
            (r#"{"method": "p_tuning", "init_adapter": "a"}"#, ["init_adapter", "not for \"p_tuning\""]),
            (
                r#"{"method": "prefix_tuning", "init_adapter": "a", "prefix_projection": true}"#,
                ["prefix_projection", "exclude"],
            ),
            (r#"{"method": "prefix_tuning", "target_modules": ["q_proj"]}"#, ["target_modules", "not for"]),
        ] {
            let message = parse(json).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{json}: {message}");
        }
        parse(r#"{"method": "prefix_tuning", "prefix_projection": true, "encoder_hidden_size": 8}"#).unwrap();
    }
}
