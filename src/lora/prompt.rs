//! Virtual tokens (soft prompts), initialized as in PEFT.
//!
//! | method | trained | shape |
//! |---|---|---|
//! | [prompt tuning](https://arxiv.org/abs/2104.08691) | embeddings | `[tokens, hidden]` |
//! | [p-tuning](https://arxiv.org/abs/2103.10385) | embeddings, and an encoder of three layers with ReLU | `[tokens, hidden]` |
//! | [prefix tuning](https://arxiv.org/abs/2101.00190) | keys and values of every layer | `[tokens, layers · 2 · kv]` |
//! | with `prefix_projection` | embeddings, and an encoder of two layers with tanh | `[tokens, kv]` |

use mlx_rs::{Array, random};

use super::config::{PromptInit, TrainingConfig};
use crate::adapters::PromptKind;
use crate::data::Tokenizer;
use crate::models::{self, Model};
use crate::nn::{Linear, Prompt};
use crate::rng::{self, Purpose};
use crate::{Error, Result, kernels};

/// Attaches the virtual tokens described by `config` to `model`.
///
/// # Errors
/// A model that does not support them; matrices that are too large.
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
        PromptInit::Text => embed_text(model, tokenizer, config)?,
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

/// Returns the embeddings of `ids` in float32.
fn embed(model: &Model, ids: &Array) -> Result<Array> {
    let x = model.embed(ids)?.as_dtype(mlx_rs::Dtype::Float32)?;
    kernels::eval([&x])?;
    Ok(x)
}

/// Returns the embeddings of the initial text, repeated to the number of virtual tokens.
fn embed_text(model: &Model, tokenizer: &Tokenizer, config: &TrainingConfig) -> Result<Array> {
    let ids = tokenizer.encode(config.prompt_tuning_init_text.as_deref().unwrap_or_default(), true)?;
    if ids.is_empty() {
        return Err(Error::Config("prompt_tuning_init_text has no tokens".into()));
    }
    models::check_tokens(&ids, model.vocab_size())?;
    let ids: Vec<u32> = ids.iter().copied().cycle().take(config.num_virtual_tokens as usize).collect();
    embed(model, &Array::from_slice(&ids, &[ids.len() as i32]))
}

/// Replaces the prompt encoder by its output.
///
/// # Errors
/// Errors from MLX.
pub(super) fn precompute(model: &mut Model) -> Result<()> {
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
    use std::sync::Arc;

    use super::*;
    use crate::adapters::attach::parameter_names;
    use crate::data::{Renderer, RendererProcess, Sample, collate};
    use crate::io::tensors;
    use crate::kernels::graphs::Graphs;
    use crate::params;
    use crate::train;
    use crate::train::gradients::{gradients, inputs};
    use crate::train::optimizer::lr_multipliers::LrMultipliers;
    use crate::train::optimizer::{Optimizer, OptimizerSettings, OptimizerState, StepOptions};
    use crate::train::task::{ForwardOptions, Task as _};

    fn parse(json: &str) -> std::result::Result<TrainingConfig, String> {
        let config: TrainingConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    fn no_templates() -> Arc<dyn Renderer> {
        Arc::new(RendererProcess::new(Vec::new(), Vec::new()))
    }

    #[test]
    fn what_computes_virtual_tokens_learns_as_that_of_peft() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures");
        let base = fixtures.join("models/llama_gqa");
        let tokenizer = Tokenizer::from_folder(&base, &no_templates()).unwrap();
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
            let optimizer = Optimizer::new(&OptimizerSettings {
                kind: train::optimizer::OptimizerKind::AdamW,
                momentum: None,
                nesterov: false,
                weight_decay: None,
                beta1: 0.9,
                beta2: None,
                eps: 1e-8,
            })
            .unwrap();
            let mut state = OptimizerState::default();
            let task = config.task(0);
            for (number, &loss) in expected["losses"].as_slice::<f32>().iter().enumerate() {
                let model = model.as_mut();
                let inputs =
                    inputs(&task, model, &batch, task.totals(&batch), &ForwardOptions::default()).unwrap();
                let (found, grads) =
                    gradients(&task, model, &parameters, &inputs, &Graphs::default()).unwrap();
                kernels::eval([&found.value]).unwrap();
                let ours = found.value.item_exact::<f32>();
                assert!((ours - loss).abs() < 1e-4, "{name}, step {number}: {ours} and {loss}");
                let options = StepOptions {
                    lr: 1e-2,
                    lr_multipliers: &LrMultipliers::default(),
                    grad_scale: Array::from_f32(1.0),
                    is_finite: None,
                    graphs: &Graphs::default(),
                };
                optimizer.step(&mut parameters, grads, &mut state, &options, |_| Ok(())).unwrap();
            }
        }
    }
}
