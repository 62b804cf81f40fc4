//! Tests of generation with small random models.

use std::collections::BTreeMap;

use serde_json::json;

use super::embed::{Pooling, embed};
use super::prompt_cache::{MemoryCache, StateKind};
use super::*;
use crate::data::{Tokenizer, fixture};
use crate::generate::constraint::ResponseFormat;
use crate::generate::finish::FinishReason;
use crate::kernels::eval;
use crate::models::{self, Model};

fn model(model_type: &str) -> Box<Model> {
    let config = json!({
        "model_type": model_type, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "tie_word_embeddings": true,
        "full_attn_idxs": [1], "block_multiple_of": 8, "sliding_window": 8, "head_dim": 8
    });
    let mut model = models::create(&config).unwrap();
    models::initialize(model.as_mut(), 0.6, 1).unwrap();
    model
}

pub(super) fn config(max_tokens: usize) -> GenerateConfig {
    GenerateConfig { max_tokens, ignore_eos: true, ..Default::default() }
}

/// Continues all requests until none is left; the tokens of each, and its last event.
pub(super) fn finish(
    scheduler: &mut Scheduler,
    model: &Model,
    tokenizer: &Tokenizer,
) -> Vec<(Vec<u32>, Event)> {
    finish_with(None, scheduler, model, tokenizer)
}

/// The same with a draft model.
pub(super) fn finish_with(
    draft: Option<&Model>,
    scheduler: &mut Scheduler,
    model: &Model,
    tokenizer: &Tokenizer,
) -> Vec<(Vec<u32>, Event)> {
    let mut found: BTreeMap<u64, (Vec<u32>, Option<Event>)> = BTreeMap::new();
    while scheduler.running() + scheduler.waiting() > 0 {
        for mut event in scheduler.step(model, draft, tokenizer) {
            let (tokens, last) = found.entry(event.id).or_default();
            tokens.append(&mut event.tokens);
            *last = Some(event);
        }
    }
    found.into_values().map(|(tokens, event)| (tokens, event.unwrap())).collect()
}

pub(super) fn prompts() -> Vec<Vec<u32>> {
    [3, 40, 1, 17, 9].iter().map(|&length| (0..length).map(|i| (i * 31 + length) % 250).collect()).collect()
}

/// What each prompt gives alone, computed anew for each token.
fn expected(model: &Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let ids = mlx_rs::Array::from_slice(&tokens, &[1, tokens.len() as i32]);
        let logits = model.forward(&ids, None).unwrap();
        eval([&logits]).unwrap();
        let last = &logits.as_slice::<f32>()[(tokens.len() - 1) * 262..];
        tokens.push((0..262).max_by(|&a, &b| last[a as usize].total_cmp(&last[b as usize])).unwrap());
    }
    tokens.split_off(prompt.len())
}

#[test]
fn requests_that_join_and_leave_get_what_each_gets_alone() {
    let tokenizer = fixture::tokenizer(None);
    for family in ["llama", "mistral", "lfm2"] {
        let model = model(family);
        for max_batch in [1, 2, 8] {
            let settings = SchedulerConfig {
                max_batch,
                prefill_chunk: 8,
                shared_prefill_chunk: 3,
                ..Default::default()
            };
            let mut scheduler = Scheduler::new(settings, None).unwrap();
            for (prompt, count) in prompts().into_iter().zip([20, 4, 30, 1, 12]) {
                scheduler.add(model.as_ref(), &tokenizer, prompt, config(count)).unwrap();
            }
            let found = finish(&mut scheduler, model.as_ref(), &tokenizer);
            for ((prompt, count), (tokens, event)) in prompts().iter().zip([20, 4, 30, 1, 12]).zip(found) {
                assert_eq!(tokens, expected(model.as_ref(), prompt, count), "{family} {max_batch}");
                assert_eq!(event.finish_reason, Some(FinishReason::Length));
                assert_eq!((event.prompt_tokens, event.generated_tokens), (prompt.len(), count));
            }
        }
    }
}

#[test]
fn states_of_earlier_texts_are_used_and_change_nothing() {
    let tokenizer = fixture::tokenizer(None);
    for family in ["llama", "mistral", "lfm2"] {
        let model = model(family);
        let settings = SchedulerConfig { prompt_cache_bytes: 64 << 20, ..Default::default() };
        let mut scheduler = Scheduler::new(settings, None).unwrap();
        let mut text: Vec<u32> = (0..30).map(|i| (i * 13) % 250).collect();
        for turn in 0..4 {
            let id = scheduler.add(model.as_ref(), &tokenizer, text.clone(), config(6)).unwrap();
            let (tokens, event) = finish(&mut scheduler, model.as_ref(), &tokenizer).pop().unwrap();
            assert_eq!(event.id, id);
            assert_eq!(tokens, expected(model.as_ref(), &text, 6), "{family} {turn}");
            assert_eq!(
                event.cached_tokens >= text.len() - 11,
                turn > 0,
                "{family} {turn}: {}",
                event.cached_tokens
            );
            text.extend(tokens);
            text.extend([7, 8, 9, turn]);
        }
        assert!(scheduler.prompt_cache_bytes() > 0);
    }
}

#[test]
fn the_prompt_cache_is_bounded_and_knows_kinds() {
    let model = model("llama");
    let cache = |length: i32| {
        let mut cache = model.new_cache(0).unwrap();
        let ids = mlx_rs::Array::from_slice(&vec![1_u32; length as usize], &[1, length]);
        let hidden = model.hidden(&ids, Some(&mut cache)).unwrap();
        eval(cache.arrays().chain([&hidden])).unwrap();
        cache
    };
    let bytes: usize = cache(4).arrays().map(mlx_rs::Array::nbytes).sum();
    let mut prompts = MemoryCache::new(bytes * 2);
    let (plain, other) = (StateKind::default(), StateKind { weights: 7, ..Default::default() });
    prompts.insert(vec![1, 2, 3, 4], plain.clone(), cache(4));
    prompts.insert(vec![5, 6, 7, 8], plain.clone(), cache(4));
    assert!(prompts.find(&[1, 2, 9], &other, 0).is_none());
    assert_eq!(prompts.find(&[1, 2, 9], &plain, 0).unwrap().1, 2);
    // That of [5, 6, 7, 8] was used less recently.
    prompts.insert(vec![9, 9, 9], other.clone(), cache(3));
    assert!(prompts.find(&[5, 6], &plain, 0).is_none());
    assert_eq!(prompts.find(&[1, 2, 3, 4, 5], &plain, 0).unwrap().1, 4);
    assert!(prompts.bytes() <= bytes * 2);
    MemoryCache::new(bytes - 1).insert(vec![1], plain, cache(4));
}

#[test]
fn cancelled_requests_leave_and_the_others_go_on() {
    let (model, tokenizer) = (model("llama"), fixture::tokenizer(None));
    let settings = SchedulerConfig { max_batch: 2, ..Default::default() };
    let mut scheduler = Scheduler::new(settings, None).unwrap();
    for prompt in prompts() {
        scheduler.add(model.as_ref(), &tokenizer, prompt, config(9)).unwrap();
    }
    scheduler.step(model.as_ref(), None, &tokenizer);
    for id in [0, 4, 99] {
        scheduler.cancel(id);
    }
    let found = finish(&mut scheduler, model.as_ref(), &tokenizer);
    let reasons: Vec<_> = found.iter().map(|(_, event)| event.finish_reason.unwrap()).collect();
    let (cancelled, length) = (FinishReason::Cancelled, FinishReason::Length);
    assert_eq!(reasons, [cancelled, length, length, length, cancelled]);
    assert_eq!(found[3].0, expected(model.as_ref(), &prompts()[3], 9));
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let (model, tokenizer) = (model("llama"), fixture::tokenizer(None));
    let prompt: Vec<u32> = (0..150).map(|i| (i * 29) % 250).collect();
    let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
    let asked = GenerateConfig { logprobs: Some(2), prompt_logprobs: Some(1), ..config(5) };
    scheduler.add(model.as_ref(), &tokenizer, prompt.clone(), asked).unwrap();
    let (mut tokens, mut reported) = (prompt.clone(), Vec::new());
    while scheduler.running() + scheduler.waiting() > 0 {
        for event in scheduler.step(model.as_ref(), None, &tokenizer) {
            tokens.extend(event.tokens);
            reported.extend(event.prompt_logprobs);
            reported.extend(event.logprobs);
        }
    }
    assert_eq!((tokens.len(), reported.len()), (155, 154));
    let ids = mlx_rs::Array::from_slice(&tokens, &[1, 155]);
    let logits = model.forward(&ids, None).unwrap();
    let logs = logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap();
    eval([&logs]).unwrap();
    for (i, found) in reported.iter().enumerate() {
        let row = &logs.as_slice::<f32>()[i * 262..(i + 1) * 262];
        assert_eq!(found.id, tokens[i + 1]);
        assert!((found.logprob - row[found.id as usize]).abs() < 1e-4, "{i}");
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(
            (found.top[0].1 - best).abs() < 1e-4 && found.top.len() == if i < 149 { 1 } else { 2 },
            "{i}"
        );
    }
}

#[test]
fn quantized_caches_join_too() {
    let (model, tokenizer) = (model("llama"), fixture::tokenizer(None));
    let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
    let long: Vec<u32> = (0..700).map(|i| (i * 29 + i / 9) % 250).collect();
    for kv_bits in [None, Some(8)] {
        // Rows of 16 numbers are no whole group.
        let asked = GenerateConfig { kv_bits, kv_group_size: 32, ..config(12) };
        let added = scheduler.add(model.as_ref(), &tokenizer, long.clone(), asked);
        assert_eq!(added.is_err(), kv_bits.is_some());
    }
    let found = finish(&mut scheduler, model.as_ref(), &tokenizer);
    assert_eq!(found[0].0, expected(model.as_ref(), &long, 12));
}

#[test]
fn formats_are_kept_to() {
    let (model, tokenizer) = (model("llama"), fixture::tokenizer(None));
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["a", "b"],
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "yz"]}}
    });
    let formats = [
        ResponseFormat::JsonSchema(schema),
        ResponseFormat::Regex("(ab|c){3,5}".into()),
        ResponseFormat::Grammar("start: \"yes\" | \"no\"".into()),
    ];
    let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
    for format in &formats {
        for seed in 0..4 {
            let asked = GenerateConfig {
                response_format: Some(format.clone()),
                temperature: 1.5,
                seed,
                max_tokens: 300,
                ..Default::default()
            };
            scheduler.add(model.as_ref(), &tokenizer, vec![1, 2, 3], asked).unwrap();
        }
    }
    let found = finish(&mut scheduler, model.as_ref(), &tokenizer);
    for (i, (tokens, event)) in found.iter().enumerate() {
        assert_eq!(event.finish_reason, Some(FinishReason::Stop), "{:?}", event.error);
        let text = tokenizer.decode(tokens, true).unwrap();
        match i / 4 {
            0 => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert!(
                    value["a"].as_i64().unwrap() <= 99 && ["x", "yz"].contains(&value["b"].as_str().unwrap())
                );
            }
            1 => assert!(text.replace("ab", "c").chars().all(|c| c == 'c') && text.len() >= 3, "{text}"),
            _ => assert!(text == "yes" || text == "no", "{text}"),
        }
    }
}

#[test]
fn what_cannot_be_continued_is_refused_and_named() {
    let (model, tokenizer) = (model("llama"), fixture::tokenizer(None));
    let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
    let mut refused = |prompt: &[u32], config: GenerateConfig| {
        scheduler.add(model.as_ref(), &tokenizer, prompt.to_vec(), config).unwrap_err().to_string()
    };
    let with =
        |format: ResponseFormat| GenerateConfig { response_format: Some(format), ..Default::default() };
    assert_eq!(refused(&[], config(1)), "the prompt has no tokens");
    assert!(refused(&[262], config(1)).contains("262"));
    let accuracy = Some(crate::kernels::quantized::Accuracy::Int8);
    assert!(refused(&[1], GenerateConfig { accuracy, ..config(1) }).starts_with("accuracy is "));
    for format in [
        ResponseFormat::JsonSchema(json!({"type": "what"})),
        ResponseFormat::Regex("(".into()),
        ResponseFormat::Grammar("start: nothing".into()),
    ] {
        let message = refused(&[1], with(format));
        assert!(message.starts_with("response_format: "), "{message}");
    }
    let settings = SchedulerConfig { max_batch: 0, ..Default::default() };
    let message = Scheduler::new(settings, None).err().unwrap().to_string();
    assert_eq!(message, "max_batch is 0; it must be at least 1");
}

#[test]
fn embeddings_are_pooled_states_of_each_text_alone() {
    for family in ["llama", "lfm2"] {
        let model = model(family);
        let texts: Vec<Vec<u32>> = [5_u32, 1, 2500, 30]
            .iter()
            .map(|&length| (0..length).map(|i| (i * 31 + length) % 250).collect())
            .collect();
        for pooling in [Pooling::Mean, Pooling::Last] {
            let found = embed(model.as_ref(), &texts, pooling, None).unwrap();
            for (text, found) in texts.iter().zip(found) {
                let ids = mlx_rs::Array::from_slice(text, &[1, text.len() as i32]);
                let hidden = model.hidden(&ids, None).unwrap();
                let pooled = match pooling {
                    Pooling::Mean => hidden.mean_axis(1, false).unwrap(),
                    Pooling::Last => {
                        hidden.take_axis(mlx_rs::Array::from_int(text.len() as i32 - 1), 1).unwrap()
                    }
                };
                eval([&pooled]).unwrap();
                let pooled = pooled.as_slice::<f32>();
                let length = pooled.iter().map(|x| x * x).sum::<f32>().sqrt();
                for (found, expected) in found.iter().zip(pooled) {
                    assert!((found - expected / length).abs() < 1e-4, "{family} {pooling:?}");
                }
            }
        }
    }
    let model = model("llama");
    assert_eq!(
        embed(model.as_ref(), &[vec![1], vec![]], Pooling::Mean, None).unwrap_err().to_string(),
        "text 1 has no tokens"
    );
    assert!(embed(model.as_ref(), &[vec![262]], Pooling::Mean, None).is_err());
}

#[test]
fn drafts_change_nothing_but_the_number_of_passes() {
    let tokenizer = fixture::tokenizer(None);
    for family in ["llama", "mistral"] {
        let model = model(family);
        let mut other = self::model(family);
        models::initialize(other.as_mut(), 0.6, 2).unwrap();
        // One that is always right, and one that hardly ever is.
        for (draft, max_passes) in [(&model, 30), (&other, 200)] {
            speculative::check(model.as_ref(), draft.as_ref()).unwrap();
            let settings = SchedulerConfig { prompt_cache_bytes: 1 << 20, ..Default::default() };
            let mut scheduler = Scheduler::new(settings, None).unwrap();
            let counts = [20, 4, 30, 1, 12];
            for (prompt, count) in prompts().into_iter().zip(counts) {
                scheduler.add(model.as_ref(), &tokenizer, prompt, config(count)).unwrap();
            }
            let found = finish_with(Some(draft.as_ref()), &mut scheduler, model.as_ref(), &tokenizer);
            for ((prompt, count), (tokens, _)) in prompts().iter().zip(counts).zip(found) {
                assert_eq!(tokens, expected(model.as_ref(), prompt, count), "{family}");
            }
            scheduler.add(model.as_ref(), &tokenizer, prompts()[1].clone(), config(30)).unwrap();
            let mut passes = 0;
            while scheduler.running() + scheduler.waiting() > 0 {
                scheduler.step(model.as_ref(), Some(draft.as_ref()), &tokenizer);
                passes += 1;
            }
            assert!(passes <= max_passes && (max_passes > 30 || passes < 10), "{family}: {passes} passes");
            // Drawn tokens are those of the model alone too.
            let drawn = |draft: Option<&Model>| {
                let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
                let config =
                    GenerateConfig { temperature: 0.7, repetition_penalty: 1.2, seed: 3, ..config(25) };
                scheduler.add(model.as_ref(), &tokenizer, prompts()[3].clone(), config).unwrap();
                finish_with(draft, &mut scheduler, model.as_ref(), &tokenizer).remove(0).0
            };
            assert_eq!(drawn(Some(draft.as_ref())), drawn(None));
        }
    }
    let message =
        speculative::check(model("llama").as_ref(), model("lfm2").as_ref()).unwrap_err().to_string();
    assert!(message.starts_with("the draft model has short convolutions"), "{message}");
}
