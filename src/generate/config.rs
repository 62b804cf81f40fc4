//! Generation settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::constraint::ResponseFormat;
use crate::kernels::quantized::{Accuracy, Format};
use crate::models::Model;
use crate::nn::prompt::PromptShape;
use crate::{Error, Result};

/// Generation settings; the default is greedy decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateConfig {
    /// Maximum number of tokens to generate, at least 1.
    pub max_tokens: usize,
    /// Sampling temperature; 0 for greedy decoding.
    pub temperature: f64,
    /// Nucleus sampling: sample from the smallest set of tokens whose probabilities sum to `top_p`; 1 disables it.
    pub top_p: f64,
    /// Sample from the `top_k` most likely tokens; 0 disables it.
    pub top_k: usize,
    /// Minimum probability of a token relative to the most likely one; 0 disables it.
    pub min_p: f64,
    /// Penalty for repeated tokens; 1 disables it, values below 1 encourage repetition.
    pub repetition_penalty: f64,
    /// Number of recent tokens the penalty applies to, prompt included; 0 disables it.
    pub repetition_context: usize,
    /// Subtracted from the logits of tokens that were generated before, from -2 to 2; 0 disables it.
    pub presence_penalty: f64,
    /// As `presence_penalty`, once for each time that the token was generated.
    pub frequency_penalty: f64,
    /// Added to the logits of tokens.
    pub logit_bias: BTreeMap<u32, f64>,
    /// Random seed. The same seed, prompt and device give the same text.
    pub seed: u64,
    /// Accuracy of the kernels of quantized models on a CPU; `None` for the fastest that hardly changes the
    /// distribution of the next token.
    pub accuracy: Option<Accuracy>,
    /// Bits per number of cached keys and values, 4 or 8; `None` keeps them exact. The first and the last positions are
    /// always exact.
    pub kv_bits: Option<usize>,
    /// Numbers of cached keys and values that share a scale and a bias.
    pub kv_group_size: usize,
    /// Stop strings; they are not part of the output.
    pub stop: Vec<String>,
    /// Whether generation goes on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Report the log-probability of each generated token, and of this many most likely ones, at most 20.
    pub logprobs: Option<usize>,
    /// As `logprobs`, for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Format that the text must have.
    pub response_format: Option<ResponseFormat>,
}

impl Default for GenerateConfig {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            accuracy: None,
            kv_bits: None,
            kv_group_size: 64,
            stop: Vec::new(),
            ignore_eos: false,
            skip_special_tokens: true,
            logprobs: None,
            prompt_logprobs: None,
            response_format: None,
        }
    }
}

impl GenerateConfig {
    /// Checks the value of every setting.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, its value and the valid range.
    pub fn validate(&self) -> Result<()> {
        let Self { max_tokens, temperature, top_p, min_p, repetition_penalty, .. } = self;
        check(*max_tokens >= 1, "max_tokens", max_tokens, "at least 1")?;
        let is_temperature = temperature.is_finite() && *temperature >= 0.0;
        check(is_temperature, "temperature", temperature, "a finite number, at least 0")?;
        check(*top_p > 0.0 && *top_p <= 1.0, "top_p", top_p, "above 0, at most 1")?;
        check((0.0..=1.0).contains(min_p), "min_p", min_p, "from 0 to 1")?;
        let is_penalty = repetition_penalty.is_finite() && *repetition_penalty > 0.0;
        check(is_penalty, "repetition_penalty", repetition_penalty, "a finite number above 0")?;
        for (key, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check((-2.0..=2.0).contains(&penalty), key, penalty, "from -2 to 2")?;
        }
        for (id, bias) in &self.logit_bias {
            let key = format!("logit_bias of token {id}");
            check(bias.is_finite() && bias.abs() <= 100.0, &key, bias, "from -100 to 100")?;
        }
        for (key, count) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            let count = count.unwrap_or(0);
            check(count <= 20, key, count, "at most 20")?;
        }
        self.kv_format()?;
        let is_text = self.stop.iter().all(|text| !text.is_empty());
        check(is_text, "stop", format_args!("{:?}", self.stop), "a list of texts that are not empty")
    }
}

impl GenerateConfig {
    /// Format of cached keys and values; `None` if they are exact.
    ///
    /// # Errors
    /// Bits or groups out of range.
    pub(super) fn kv_format(&self) -> Result<Option<Format>> {
        let Some(bits) = self.kv_bits else { return Ok(None) };
        check(matches!(bits, 4 | 8), "kv_bits", bits, "4 or 8")?;
        let format = Format::affine(bits, self.kv_group_size);
        check(format.is_ok(), "kv_group_size", self.kv_group_size, "32, 64 or 128")?;
        Ok(format.ok())
    }
}

/// Checks that the keys and values of a position are whole groups.
///
/// # Errors
/// The size of a position, and what to choose.
pub(super) fn check_cache_rows(model: &Model, format: Format) -> Result<()> {
    let Some(PromptShape::KeyValues { kv_heads, head_dim, .. }) = model.prefix_shape() else { return Ok(()) };
    let (row, group) = (kv_heads * head_dim, format.group_size() as i32);
    if row % group == 0 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "kv_group_size is {group}, but the keys of a position are {row} numbers: choose a divisor of {row}, or leave \
         kv_bits out"
    )))
}

fn check(is_right: bool, key: &str, value: impl std::fmt::Display, range: &str) -> Result<()> {
    if is_right { Ok(()) } else { Err(Error::Config(format!("{key} is {value}; it must be {range}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut GenerateConfig)) -> String {
        let mut config = GenerateConfig::default();
        change(&mut config);
        let error = config.validate().unwrap_err();
        assert!(matches!(error, Error::Config(_)));
        error.to_string()
    }

    #[test]
    fn defaults_and_limits_are_valid() {
        GenerateConfig::default().validate().unwrap();
        let widest = GenerateConfig { max_tokens: 1, temperature: 9.0, min_p: 1.0, ..Default::default() };
        widest.validate().unwrap();
    }

    #[test]
    fn a_wrong_value_is_named_with_its_range() {
        for (error, expected) in [
            (refused(|c| c.max_tokens = 0), "max_tokens is 0; it must be at least 1"),
            (
                refused(|c| c.temperature = -0.5),
                "temperature is -0.5; it must be a finite number, at least 0",
            ),
            (
                refused(|c| c.temperature = f64::NAN),
                "temperature is NaN; it must be a finite number, at least 0",
            ),
            (refused(|c| c.top_p = 0.0), "top_p is 0; it must be above 0, at most 1"),
            (refused(|c| c.top_p = 1.5), "top_p is 1.5; it must be above 0, at most 1"),
            (refused(|c| c.min_p = -1.0), "min_p is -1; it must be from 0 to 1"),
            (refused(|c| c.min_p = f64::NAN), "min_p is NaN; it must be from 0 to 1"),
            (
                refused(|c| c.repetition_penalty = 0.0),
                "repetition_penalty is 0; it must be a finite number above 0",
            ),
            (refused(|c| c.kv_bits = Some(3)), "kv_bits is 3; it must be 4 or 8"),
            (
                refused(|c| (c.kv_bits, c.kv_group_size) = (Some(8), 48)),
                "kv_group_size is 48; it must be 32, 64 or 128",
            ),
            (refused(|c| c.presence_penalty = -3.0), "presence_penalty is -3; it must be from -2 to 2"),
            (
                refused(|c| c.frequency_penalty = f64::NAN),
                "frequency_penalty is NaN; it must be from -2 to 2",
            ),
            (
                refused(|c| c.logit_bias = [(7, 200.0)].into()),
                "logit_bias of token 7 is 200; it must be from -100 to 100",
            ),
            (refused(|c| c.logprobs = Some(21)), "logprobs is 21; it must be at most 20"),
            (refused(|c| c.prompt_logprobs = Some(99)), "prompt_logprobs is 99; it must be at most 20"),
            (
                refused(|c| c.stop = vec!["\n".into(), String::new()]),
                r#"stop is ["\n", ""]; it must be a list of texts that are not empty"#,
            ),
        ] {
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn json_may_be_partial_but_not_unknown() {
        let config: GenerateConfig = serde_json::from_str(r#"{"top_k": 5, "stop": ["."]}"#).unwrap();
        assert_eq!(config, GenerateConfig { top_k: 5, stop: vec![".".into()], ..Default::default() });
        let error = serde_json::from_str::<GenerateConfig>(r#"{"topk": 5}"#).unwrap_err();
        assert!(error.to_string().starts_with("unknown field `topk`"), "{error}");
    }
}
