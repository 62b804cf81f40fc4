//! Tests of requests with different adapters in one batch.

use std::collections::HashMap;
use std::sync::Arc;

use mlx_rs::{Array, random};
use serde_json::json;

use super::embed::{Pooling, embed};
use super::replay::{Part, Replay};
use super::tests::{config, finish, finish_with, prompts};
use super::*;
use crate::data::fixture;
use crate::models::{self, Model};
use crate::nn::linear::dora::MIN_ROW_NORM;
use crate::nn::row_adapters::LayerUpdate;
use crate::nn::{LowRank, RowAdapter};

const FAMILIES: [&str; 5] = ["llama", "mistral", "lfm2", "qwen3_moe", "phi3"];

fn model(model_type: &str) -> Box<Model> {
    let config = json!({
        "model_type": model_type, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "tie_word_embeddings": true,
        "full_attn_idxs": [1], "block_multiple_of": 8, "sliding_window": 8, "head_dim": 8, "pad_token_id": 0,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": true,
        "mlp_only_layers": [], "decoder_sparse_step": 1
    });
    let mut model = models::create(&config).unwrap();
    models::initialize(model.as_mut(), 0.6, 1).unwrap();
    model
}

/// What an adapter puts into the slots of a layer: `A`, `B` and, of every other adapter, a magnitude.
type Slots = HashMap<String, (Array, Array, Option<Array>)>;

/// An adapter of the layers that `is_chosen` picks, and of the head with `adapts_head`.
fn slots(model: &mut Model, seed: u64, rank: i32, has_magnitudes: bool, adapts_head: bool) -> Slots {
    let normal = |shape: &[i32], key: u64, deviation: f32| {
        random::normal::<f32>(shape, None, deviation, &random::key(1000 * seed + key).unwrap()).unwrap()
    };
    model.set_head_adaptable(adapts_head);
    let (mut slots, mut key) = (Slots::new(), 0);
    model
        .visit_linears(&mut |path, layer| {
            key += 3;
            // Each adapter leaves some layers out.
            if key % 5 != seed % 5 || path == "lm_head" {
                let (inputs, outputs) = layer.size();
                let m = has_magnitudes.then(|| normal(&[outputs], key + 2, 1.0).abs().unwrap());
                let matrices = (normal(&[inputs, rank], key, 0.3), normal(&[rank, outputs], key + 1, 0.3), m);
                slots.insert(path.to_owned(), matrices);
            }
            Ok(())
        })
        .unwrap();
    model.set_head_adaptable(false);
    slots
}

/// Attaches an adapter to the layers, or none.
fn attach(model: &mut Model, slots: Option<&Slots>) {
    model.set_head_adaptable(slots.is_some_and(|slots| slots.contains_key("lm_head")));
    model
        .visit_linears(&mut |path, layer| {
            layer.remove_update();
            if let Some((a, b, m)) = slots.and_then(|slots| slots.get(path)) {
                (*layer.lora_a, *layer.lora_b, *layer.m) = (Some(a.clone()), Some(b.clone()), m.clone());
                layer.low_rank = LowRank { scale: 0.5, ..LowRank::default() };
                layer.cache_row_norms()?;
            }
            Ok(())
        })
        .unwrap();
}

/// The same adapter for rows; `f = m / ‖W + s·(A·B)ᵀ‖` is computed from the whole matrix.
fn for_rows(model: &mut Model, slots: &Slots, id: u64) -> Arc<RowAdapter> {
    model.set_head_adaptable(true);
    let mut layers = HashMap::new();
    model
        .visit_linears(&mut |path, layer| {
            let Some((a, b, m)) = slots.get(path) else { return Ok(()) };
            let factor = match m {
                None => None,
                Some(m) => {
                    let update = a.matmul(b)?.multiply(Array::from_f32(0.5))?;
                    let adapted = layer.weight.add(update.t())?;
                    let norms = adapted.square()?.sum_axis(1, false)?.sqrt()?;
                    Some(m.divide(mlx_rs::ops::maximum(norms, Array::from_f32(MIN_ROW_NORM))?)?)
                }
            };
            crate::kernels::eval([a, b].into_iter().chain(&factor))?;
            layers.insert(path.to_owned(), LayerUpdate { a: a.clone(), b: b.clone(), scale: 0.5, factor });
            Ok(())
        })
        .unwrap();
    model.set_head_adaptable(false);
    Arc::new(RowAdapter::new(id, layers))
}

/// A model of each family with two adapters, as slots and for rows: a plain one that also adapts the head, and one with
/// magnitudes.
fn each_family(mut check: impl FnMut(&str, &mut Model, [Slots; 2], [Arc<RowAdapter>; 2])) {
    for family in FAMILIES {
        let mut model = model(family);
        let model = model.as_mut();
        let slots = [slots(model, 1, 3, false, true), slots(model, 2, 8, true, false)];
        let rows = [for_rows(model, &slots[0], 11), for_rows(model, &slots[1], 12)];
        check(family, model, slots, rows);
    }
}

/// Which of two adapters each of five requests has.
const CHOICES: [Option<usize>; 5] = [Some(1), None, Some(0), Some(1), None];

fn logits(model: &Model, prompts: &[Vec<u32>], adapters: &[Option<&Arc<RowAdapter>>]) -> Vec<f32> {
    let mut caches: Vec<_> = prompts.iter().map(|_| model.new_cache(0).unwrap()).collect();
    let mut parts: Vec<Part> = (prompts.iter().zip(&mut caches).zip(adapters))
        .map(|((tokens, cache), &adapter)| Part {
            id: 0,
            adapter,
            cache,
            tokens,
            wanted: 1,
            is_steady: false,
        })
        .collect();
    Replay::default().run(model, &mut parts).unwrap()
}

#[test]
fn logits_are_those_of_each_adapter_alone() {
    each_family(|family, model, slots, rows| {
        // What is attached is the adapter of rows without one of their own.
        for attached in [None, Some(0), Some(1)] {
            attach(model, attached.map(|index| &slots[index]));
            let adapters = CHOICES.map(|choice| choice.map(|index| &rows[index]));
            let found = logits(model, &prompts(), &adapters);
            for ((prompt, found), choice) in prompts().iter().zip(found.chunks(262)).zip(CHOICES) {
                attach(model, choice.or(attached).map(|index| &slots[index]));
                let expected = logits(model, std::slice::from_ref(prompt), &[None]);
                let size = expected.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
                let error =
                    found.iter().zip(&expected).fold(0.0_f32, |error, (x, y)| error.max((x - y).abs()));
                assert!(error <= 1e-5 * size, "{family} {attached:?} {choice:?}: {error} of {size}");
            }
        }
    });
}

#[test]
fn requests_with_different_adapters_join_and_leave() {
    let tokenizer = fixture::tokenizer(None);
    let counts = [20, 4, 30, 1, 25];
    each_family(|family, model, slots, rows| {
        let alone: Vec<Vec<u32>> = (prompts().into_iter().zip(counts).zip(CHOICES))
            .map(|((prompt, count), choice)| {
                attach(model, choice.map(|index| &slots[index]));
                let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
                scheduler.add(model, &tokenizer, prompt, config(count)).unwrap();
                finish(&mut scheduler, model, &tokenizer).remove(0).0
            })
            .collect();
        attach(model, None);
        for max_batch in [1, 2, 8] {
            let settings = SchedulerConfig {
                max_batch,
                prefill_chunk: 8,
                shared_prefill_chunk: 3,
                ..Default::default()
            };
            let mut scheduler = Scheduler::new(settings, None).unwrap();
            for ((prompt, count), choice) in prompts().into_iter().zip(counts).zip(CHOICES) {
                let adapter = choice.map(|index| rows[index].clone());
                scheduler.add_with_adapter(model, &tokenizer, prompt, config(count), adapter).unwrap();
            }
            let draft = if family == "llama" && max_batch == 8 { Some(&*model) } else { None };
            let found = finish_with(draft, &mut scheduler, model, &tokenizer);
            let found: Vec<Vec<u32>> = found.into_iter().map(|(tokens, _)| tokens).collect();
            assert_eq!(found, alone, "{family} {max_batch}");
        }
    });
}

#[test]
fn states_of_one_adapter_are_not_used_for_another() {
    let tokenizer = fixture::tokenizer(None);
    each_family(|family, model, _, rows| {
        let settings = SchedulerConfig { prompt_cache_bytes: 64 << 20, ..Default::default() };
        let mut scheduler = Scheduler::new(settings, None).unwrap();
        let text: Vec<u32> = (0..30).map(|i| (i * 13) % 250).collect();
        for turn in 0..2 {
            let prompt = [&text[..], &[3, turn]].concat();
            let texts: Vec<Vec<u32>> = [None, Some(0), Some(1)]
                .map(|choice: Option<usize>| {
                    let adapter = choice.map(|index| rows[index].clone());
                    let ask = |scheduler: &mut Scheduler| {
                        let (prompt, adapter) = (prompt.clone(), adapter.clone());
                        scheduler.add_with_adapter(model, &tokenizer, prompt, config(6), adapter).unwrap();
                        finish(scheduler, model, &tokenizer).remove(0)
                    };
                    let (tokens, event) = ask(&mut scheduler);
                    // States after short convolutions cannot be cut.
                    let is_known = turn > 0 && family != "lfm2";
                    assert_eq!(event.cached_tokens >= 30, is_known, "{family} {choice:?}");
                    let mut without = Scheduler::new(SchedulerConfig::default(), None).unwrap();
                    assert_eq!(tokens, ask(&mut without).0, "{family} {choice:?}");
                    tokens
                })
                .into();
            // States that are mixed up are seen.
            assert!(texts.iter().any(|text| *text != texts[0]), "{family}");
        }
    });
}

#[test]
fn other_weights_of_the_model_disturb_no_request_with_an_adapter() {
    let tokenizer = fixture::tokenizer(None);
    let mut model = model("llama");
    let model = model.as_mut();
    let plain = slots(model, 1, 3, false, true);
    let adapter = for_rows(model, &plain, 1);
    let run = |model: &mut Model, attached: Option<&Slots>| {
        attach(model, None);
        let mut scheduler = Scheduler::new(SchedulerConfig::default(), None).unwrap();
        scheduler
            .add_with_adapter(model, &tokenizer, vec![1, 2, 3], config(20), Some(adapter.clone()))
            .unwrap();
        let mut tokens = Vec::new();
        for number in 0..30 {
            if number == 5 {
                attach(model, attached);
                scheduler.set_weights(model, number);
            }
            let events = scheduler.step(model, None, &tokenizer);
            tokens.extend(events.into_iter().flat_map(|event| event.tokens));
            // A request that is read again would give its next token later.
            assert_eq!(tokens.len(), 20.min(number as usize + 1));
        }
        tokens
    };
    let other = slots(model, 2, 8, true, false);
    assert_eq!(run(model, None), run(model, Some(&other)));
    assert!(Scheduler::new(SchedulerConfig::default(), None).unwrap().adapter(1).is_none());
}

#[test]
fn embeddings_are_those_of_the_adapter() {
    each_family(|family, model, slots, rows| {
        for (slots, rows) in slots.iter().zip(&rows) {
            attach(model, None);
            let found = embed(model, &prompts(), Pooling::Mean, Some(rows)).unwrap();
            attach(model, Some(slots));
            let expected = embed(model, &prompts(), Pooling::Mean, None).unwrap();
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{family}");
            }
        }
    });
}

#[test]
fn a_step_is_recorded_with_its_adapters() {
    let mut model = model("llama");
    let model = model.as_mut();
    let plain = [slots(model, 1, 3, false, true), slots(model, 2, 8, true, false)];
    let rows = [for_rows(model, &plain[0], 1), for_rows(model, &plain[1], 2)];
    let pass = |replay: &mut Replay, caches: &mut [crate::nn::Cache; 3], token: u32, swapped: bool| {
        let adapters = if swapped { [1, 0] } else { [0, 1] }.map(|index| Some(&rows[index]));
        let adapters = [None, adapters[0], adapters[1]];
        let tokens = [token];
        let mut parts: Vec<Part> = (caches.iter_mut().zip(adapters).zip(0..))
            .map(|((cache, adapter), id)| Part {
                id,
                adapter,
                cache,
                tokens: &tokens,
                wanted: 1,
                is_steady: true,
            })
            .collect();
        replay.run(model, &mut parts).unwrap()
    };
    let fresh = || [0; 3].map(|_| model.new_cache(0).unwrap());
    let (mut recorded, mut direct) = (Replay::default(), Replay::default());
    let (mut ours, mut theirs) = (fresh(), fresh());
    let mut repeated = 0;
    for token in 0..40 {
        // The same sequences with other adapters are other passes.
        let swapped = token >= 25;
        direct.reset();
        repeated += usize::from(recorded.is_recorded());
        let found = pass(&mut recorded, &mut ours, token * 7 % 250, swapped);
        assert_eq!(found, pass(&mut direct, &mut theirs, token * 7 % 250, swapped), "{token}");
    }
    assert_eq!(repeated, 25 - 9 + 15 - 9 + 1);
}
