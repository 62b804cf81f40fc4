//! Virtual tokens: what they start from, and which settings belong to them. Starts are those of PEFT.
//!
//! | method | learned | shape |
//! |---|---|---|
//! | [prompt tuning](https://arxiv.org/abs/2104.08691) | embeddings | `[tokens, hidden]` |
//! | [p-tuning](https://arxiv.org/abs/2103.10385) | the same, and three layers over them with ReLU between | `[tokens, hidden]` |
//! | [prefix tuning](https://arxiv.org/abs/2101.00190) | keys and values of every layer | `[tokens, layers · 2 · kv]` |
//! | with `prefix_projection` | vectors, and two layers over them with tanh between | `[tokens, kv]` |

use mlx_rs::{Array, random};
use serde::{Deserialize, Serialize};

use super::config::{Method, TrainingConfig};
use crate::adapters::PromptKind;
use crate::data::Tokenizer;
use crate::models::{self, Model};
use crate::nn::{Linear, Prompt};
use crate::rng::{self, Purpose};
use crate::train::text::objective::Kind;
use crate::{Error, Result, kernels};

/// Most virtual tokens, and most numbers between layers over them.
const MOST: u32 = 1 << 16;

/// What the virtual tokens of prompt tuning start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// `N(0, 1)`
    #[default]
    Random,
    /// The embeddings of a text.
    Text,
    /// The embeddings of random tokens.
    SampleVocab,
}

impl Method {
    /// The method that learns virtual tokens of this kind.
    #[must_use]
    pub fn of(kind: PromptKind) -> Self {
        match kind {
            PromptKind::PromptTuning => Self::PromptTuning,
            PromptKind::PTuning => Self::PTuning,
            PromptKind::PrefixTuning => Self::PrefixTuning,
        }
    }

    /// The kind of virtual tokens it learns, if any.
    #[must_use]
    pub fn prompt(self) -> Option<PromptKind> {
        match self {
            Self::PromptTuning => Some(PromptKind::PromptTuning),
            Self::PTuning => Some(PromptKind::PTuning),
            Self::PrefixTuning => Some(PromptKind::PrefixTuning),
            Self::Lora | Self::Dora | Self::Adalora | Self::Full => None,
        }
    }
}

impl TrainingConfig {
    /// Checks what belongs to virtual tokens only.
    ///
    /// # Errors
    /// The first key out of range.
    pub(super) fn validate_prompt(&self) -> Result<()> {
        for (key, value) in [
            ("num_virtual_tokens", self.num_virtual_tokens),
            ("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1)),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(Error::Config(format!("{key} is {value}, expected 1 to {MOST}")));
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

    /// Keys that only virtual tokens have a use for, or that they have none for: whether each is given, and which methods it
    /// is for.
    pub(super) fn keys_of_prompts(&self) -> [(&'static str, bool, &'static [Method]); 11] {
        use Method::{Adalora, Dora, Full, Lora, PTuning, PrefixTuning, PromptTuning};
        const OTHERS: &[Method] = &[Lora, Dora, Adalora, Full];
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
            ("target_modules", self.target_modules.is_some(), OTHERS),
            ("num_layers", self.num_layers.is_some(), OTHERS),
            ("lora_dropout", self.lora_dropout > 0.0, OTHERS),
            ("packing", self.packing, OTHERS),
            // What it measures from would be the model behind random virtual tokens.
            ("objective \"dpo\"", self.objective == Kind::Dpo, OTHERS),
            // Keys before a text enter every layer, so that no layer can be computed again from its input.
            (
                "grad_checkpoint",
                self.grad_checkpoint > 0,
                &[Lora, Dora, Adalora, Full, PromptTuning, PTuning],
            ),
        ]
    }
}

/// Puts the virtual tokens that `config` describes before every text of `model`.
///
/// # Errors
/// A model that has no place for them; more of them than arrays hold.
pub(super) fn attach(
    model: &mut Model,
    tokenizer: &Tokenizer,
    kind: PromptKind,
    config: &TrainingConfig,
) -> Result<()> {
    let shape = kind.shape(model).map_err(Error::Config)?;
    let tokens = config.num_virtual_tokens as i32;
    let inner = shape.token_dim();
    let hidden = config.encoder_hidden_size.map_or(inner, |size| size as i32);
    let sizes = match shape.width() {
        Some(width) => match kind {
            PromptKind::PTuning => vec![inner, hidden, hidden, inner],
            PromptKind::PrefixTuning if config.prefix_projection => vec![inner, hidden, width],
            PromptKind::PrefixTuning | PromptKind::PromptTuning => vec![width],
        },
        None => vec![i32::MAX],
    };
    let rows = std::iter::once(tokens).chain(sizes.windows(2).map(|pair| pair[1]));
    if sizes.iter().zip(rows).any(|(size, rows)| size.checked_mul(rows).is_none()) {
        let (virtual_tokens, encoder) = (config.num_virtual_tokens, hidden);
        return Err(Error::Config(format!(
            "num_virtual_tokens ({virtual_tokens}) and encoder_hidden_size ({encoder}) make matrices too large for this \
             model: an array holds at most {} numbers",
            i32::MAX
        )));
    }
    let key = |part: u64| rng::key(config.seed, Purpose::Adapter, &[part]);
    let embedding = match config.prompt_tuning_init {
        PromptInit::Random => random::normal::<f32>(&[tokens, sizes[0]], None, None, &key(0)?)?,
        PromptInit::SampleVocab => {
            embed(model, &random::randint::<_, i32>(0, model.vocab_size(), &[tokens], &key(0)?)?)?
        }
        PromptInit::Text => text(model, tokenizer, config)?,
    };
    let mut prompt = Prompt::new(embedding, shape);
    for (i, pair) in sizes.windows(2).enumerate() {
        let mut layer = Linear::new(pair[0], pair[1], true)?;
        let bound = f64::from(pair[0]).sqrt().recip() as f32;
        let (weight, bias) = random::split(key(1 + i as u64)?, 2)?;
        *layer.weight = random::uniform::<_, f32>(-bound, bound, &[pair[1], pair[0]], &weight)?;
        *layer.bias = Some(random::uniform::<_, f32>(-bound, bound, &[pair[1]], &bias)?);
        prompt.encoder.push(layer);
    }
    *model.prompt_mut() = Some(prompt);
    Ok(())
}

/// What `ids` mean to the model, in f32.
fn embed(model: &Model, ids: &Array) -> Result<Array> {
    let x = model.embed(ids)?.as_dtype(mlx_rs::Dtype::Float32)?;
    kernels::eval([&x])?;
    Ok(x)
}

/// The tokens of the text, from its beginning again where there are more virtual tokens.
fn text(model: &Model, tokenizer: &Tokenizer, config: &TrainingConfig) -> Result<Array> {
    let ids = tokenizer.encode(config.prompt_tuning_init_text.as_deref().unwrap_or_default(), true)?;
    if ids.is_empty() {
        return Err(Error::Config("prompt_tuning_init_text has no tokens".into()));
    }
    models::check_tokens(&ids, model.vocab_size())?;
    let ids: Vec<u32> = ids.iter().copied().cycle().take(config.num_virtual_tokens as usize).collect();
    embed(model, &Array::from_slice(&ids, &[ids.len() as i32]))
}

/// Computes the virtual tokens once and for all.
///
/// # Errors
/// What MLX raises.
pub(super) fn settle(model: &mut Model) -> Result<()> {
    if let Some(prompt) = model.prompt_mut() {
        let computed = prompt.forward()?;
        kernels::eval([&computed])?;
        *prompt = Prompt::new(computed, prompt.shape);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::adapters::attach::parameter_names;
    use crate::data::{Sample, collate};
    use crate::io::tensors;
    use crate::kernels::graphs::Graphs;
    use crate::params;
    use crate::train;
    use crate::train::gradients::{gradients, inputs};
    use crate::train::lr_factors::LrFactors;
    use crate::train::optimizer::{Memory, Optimizer, Pace, Settings};
    use crate::train::task::{Pass, Task as _};

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

    #[test]
    fn what_computes_virtual_tokens_learns_as_that_of_peft() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures");
        let base = fixtures.join("models/llama_gqa");
        let tokenizer = Tokenizer::from_folder(&base).unwrap();
        let rows = tensors::read(&fixtures.join("prompts/rows.safetensors")).unwrap();
        let samples: Vec<Sample> = rows["ids"]
            .as_slice::<i32>()
            .chunks(rows["ids"].dim(1) as usize)
            .map(|ids| Sample::new(ids.iter().map(|&id| id as u32).collect(), |_| true))
            .collect();
        let batch = collate(&samples.iter().collect::<Vec<_>>(), usize::MAX, 0);
        for (name, json) in [
            ("p_tuning", r#"{"method": "p_tuning", "num_virtual_tokens": 5, "encoder_hidden_size": 20}"#),
            (
                "prefix_projection",
                r#"{"method": "prefix_tuning", "prefix_projection": true, "num_virtual_tokens": 5,
                    "encoder_hidden_size": 20}"#,
            ),
        ] {
            let mut model = models::load(&base, None, None).unwrap();
            let config = parse(json).unwrap();
            attach(model.as_mut(), &tokenizer, config.method.prompt().unwrap(), &config).unwrap();
            let names = parameter_names(model.as_mut());
            let expected =
                tensors::read(&fixtures.join("prompts").join(name).join("expected.safetensors")).unwrap();
            let mut parameters = params::parameters(model.as_ref(), &names).unwrap();
            for (name, value) in &mut parameters {
                assert_eq!(value.shape(), expected[name].shape(), "{name}");
                *value = expected[name].clone();
            }
            let optimizer = Optimizer::new(&Settings {
                kind: train::optimizer::Kind::AdamW,
                momentum: None,
                nesterov: false,
                weight_decay: None,
                beta1: 0.9,
                beta2: None,
                eps: 1e-8,
            })
            .unwrap();
            let mut memory = Memory::default();
            let task = config.task(0);
            for (number, &loss) in expected["losses"].as_slice::<f32>().iter().enumerate() {
                let model = model.as_mut();
                let inputs = inputs(&task, model, &batch, task.totals(&batch), &Pass::default()).unwrap();
                let (found, grads) =
                    gradients(&task, model, &parameters, &inputs, &Graphs::default()).unwrap();
                kernels::eval([&found.value]).unwrap();
                let ours = found.value.item_exact::<f32>();
                assert!((ours - loss).abs() < 1e-4, "{name}, step {number}: {ours} and {loss}");
                let pace = Pace {
                    lr: 1e-2,
                    factors: &LrFactors::default(),
                    grad_scale: Array::from_f32(1.0),
                    finite: None,
                    graphs: &Graphs::default(),
                };
                optimizer.step(&mut parameters, grads, &mut memory, &pace, |_| Ok(())).unwrap();
            }
        }
    }
}
