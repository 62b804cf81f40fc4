//! Tests of all architectures with small random configurations.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp as _;
use serde_json::{Value, json};

use super::loading::SUPPORTED;
use super::*;
use crate::kernels::eval;
use crate::nn::scaling::Producer;
use crate::nn::{Cache, LayerCache, Sequences};

/// A small `config.json` of every family.
fn families() -> Vec<Value> {
    let family = |model_type: &str, more: Value| {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 64, "tie_word_embeddings": false,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    let longrope = json!({
        "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]},
    });
    let experts = json!({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8});
    let mut mixed = experts.clone();
    mixed["num_dense_layers"] = 1.into();
    mixed["layer_types"] = json!(["conv", "full_attention", "conv"]);
    vec![
        family("llama", json!({})),
        family("mistral", json!({"sliding_window": 4})),
        family("qwen2", json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1})),
        family("qwen3", json!({})),
        family("qwen3_moe", experts),
        family("smollm3", json!({"no_rope_layers": [1, 0, 1]})),
        family("phi3", longrope),
        family("gemma2", json!({"sliding_window": 4})),
        family("gemma3_text", json!({"sliding_window": 4, "sliding_window_pattern": 2})),
        family("mixtral", json!({"num_local_experts": 4})),
        family("gpt_oss", json!({"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2})),
        family("lfm2", json!({"full_attn_idxs": [1], "block_multiple_of": 8})),
        family("lfm2_moe", mixed),
    ]
}

#[test]
fn outlines_describe_blocks_of_attention_and_gated_layers() {
    for config in families() {
        let model = create(&config).unwrap();
        let name = config["model_type"].as_str().unwrap();
        let Some(outline) = model.outline() else {
            assert!(["qwen3_moe", "mixtral", "gpt_oss", "lfm2", "lfm2_moe"].contains(&name), "{name}");
            continue;
        };
        let told = serde_json::to_value(&outline).unwrap();
        let blocks = told["blocks"].as_array().unwrap();
        assert_eq!(blocks.len(), 3, "{name}");
        assert!(blocks.iter().all(|block| block["heads"] == 4 && block["kv_heads"] == 2), "{name}");
        let slides: Vec<bool> = blocks.iter().map(|block| block["window"] == 4).collect();
        let rotates: Vec<bool> = blocks.iter().map(|block| block["rope"].is_object()).collect();
        match name {
            "mistral" => assert_eq!(slides, [true; 3]),
            "qwen2" => assert_eq!(slides, [false, true, true]),
            "gemma2" | "gemma3_text" => assert_eq!(slides, [true, false, true], "{name}"),
            _ => assert_eq!(slides, [false; 3], "{name}"),
        }
        assert_eq!(rotates, if name == "smollm3" { [true, false, true] } else { [true; 3] }, "{name}");
        let rope = &blocks[0]["rope"];
        let pairs = if name == "phi3" { 2 } else { 4 };
        assert_eq!(rope["frequencies"].as_array().unwrap().len(), pairs, "{name}");
        assert_eq!(rope["limit"], if name == "phi3" { json!(32) } else { Value::Null }, "{name}");
        if name == "phi3" {
            // Inverse periods 1 and 1/100, over the factors.
            assert_eq!(rope["frequencies"], json!([1.0, 1.0 / 150.0]));
            assert_eq!(rope["long_frequencies"], json!([0.5, 1.0 / 400.0]));
        }
    }
}

fn numbers(model: &Model) -> usize {
    model.parameters().flatten().values().map(|x| x.size()).sum()
}

#[test]
fn every_family_is_here() {
    let found: Vec<_> =
        families().iter().map(|config| config["model_type"].as_str().unwrap().to_owned()).collect();
    let mut sorted: Vec<_> = SUPPORTED.split(", ").collect();
    assert!(sorted.is_sorted());
    sorted.retain(|name| !found.iter().any(|found| found == name));
    assert!(sorted.is_empty(), "{sorted:?} are not tested");
}

#[test]
fn token_by_token_is_the_same_as_all_at_once() {
    for config in families() {
        let mut model = create(&config).unwrap();
        initialize(model.as_mut(), 0.3, 7).unwrap();
        let ids = Array::from_iter((0..24).map(|i| (i * 7) % 40), &[2, 12]);
        let whole = model.forward(&ids, None).unwrap();
        let mut cache = model.new_cache(0).unwrap();
        let mut parts = Vec::new();
        for range in [0..5, 5..6, 6..7, 7..10, 10..11, 11..12] {
            parts.push(model.forward(&ids.try_index((.., range)).unwrap(), Some(&mut cache)).unwrap());
            eval(cache.arrays()).unwrap();
        }
        let parts = concatenate(&parts, 1).unwrap();
        let distance = whole.subtract(&parts).unwrap().abs().unwrap().max(None).unwrap();
        let size = whole.abs().unwrap().max(None).unwrap();
        eval([&distance, &size]).unwrap();
        let (distance, size) = (distance.as_slice::<f32>()[0], size.as_slice::<f32>()[0]);
        assert!(size > 0.01 && distance < 1e-4, "{}: {distance} of {size}", config["model_type"]);
    }
}

/// Other numbers for all norms and biases than the initial ones.
fn scatter_vectors(model: &mut Model) {
    for (name, parameter) in model.parameters_mut().flatten().into_iter().collect::<BTreeMap<_, _>>() {
        if parameter.ndim() == 1 {
            let first = name.len() as f32;
            let wave = Array::from_iter(
                (0..parameter.dim(0)).map(|i| (i as f32 + first).sin()),
                &[parameter.dim(0)],
            );
            *parameter = parameter.add(wave.multiply(Array::from_f32(0.3)).unwrap()).unwrap();
        }
    }
}

#[test]
fn scales_move_from_producers_to_consumers_without_effect() {
    for mut config in families() {
        config["attention_bias"] = true.into();
        config["mlp_bias"] = true.into();
        config["conv_bias"] = true.into();
        let mut model = create(&config).unwrap();
        initialize(model.as_mut(), 0.3, 7).unwrap();
        scatter_vectors(model.as_mut());
        let ids = Array::from_iter((0..24).map(|i| (i * 7) % 40), &[2, 12]);
        let before = model.forward(&ids, None).unwrap();
        eval([&before]).unwrap();
        let (mut norms, mut layers) = (0, 0);
        for index in 0..model.block_count() {
            for scaling in model.scalings(index) {
                let consumer = format!("{}.weight", scaling.consumers[0]);
                let columns = model.parameters().flatten()[consumer.as_str()].dim(1);
                let scales: Vec<f32> = (0..columns).map(|j| 1.0 + 0.7 * (j as f32 * 1.7).sin()).collect();
                let scales = scaling.shared(&scales);
                let factors = scaling.fold(model.as_mut(), &scales).unwrap();
                assert!(factors.iter().zip(&scales).all(|(a, b)| (a - b).abs() < 1e-5), "{scaling:?}");
                match scaling.producer {
                    Producer::Norm { .. } => norms += 1,
                    Producer::Linear { .. } => layers += 1,
                }
            }
        }
        let after = model.forward(&ids, None).unwrap();
        let distance = before.subtract(&after).unwrap().abs().unwrap().max(None).unwrap();
        let size = before.abs().unwrap().max(None).unwrap();
        eval([&distance, &size]).unwrap();
        let (distance, size) = (distance.as_slice::<f32>()[0], size.as_slice::<f32>()[0]);
        assert!(size > 0.01 && distance < 1e-4, "{}: {distance} of {size}", config["model_type"]);
        // Two norms per block, and a layer within attention or convolution.
        assert!(norms == 6 && layers >= 3, "{}: {norms}, {layers}", config["model_type"]);
    }
}

#[test]
fn every_layer_of_a_block_reads_channels_that_can_be_scaled() {
    for config in families() {
        let mut model = create(&config).unwrap();
        let consumers: Vec<String> = (0..model.block_count())
            .flat_map(|index| model.scalings(index))
            .flat_map(|scaling| scaling.consumers)
            .collect();
        model
            .visit_linears(&mut |path, _| {
                let count = consumers.iter().filter(|consumer| *consumer == path).count();
                // The gate of gpt-oss adds one to what its down projection reads.
                let expected =
                    usize::from(!(config["model_type"] == "gpt_oss" && path.ends_with("down_proj")));
                assert_eq!(count, expected, "{}: {path}", config["model_type"]);
                Ok(())
            })
            .unwrap();
    }
}

/// Configurations of published models, as far as they shape them, and how many numbers those have.
fn published() -> Vec<(usize, Value)> {
    let sizes = |model_type: &str,
                 [vocab, hidden, intermediate, layers, heads, kv_heads]: [i64; 6],
                 more: Value| {
        let mut config = json!({
            "model_type": model_type, "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    let tied = json!({"tie_word_embeddings": true});
    let qwen3_moe =
        json!({"head_dim": 128, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8});
    vec![
        (494_032_768, sizes("qwen2", [151_936, 896, 4864, 24, 14, 2], tied.clone())),
        (596_049_920, sizes("qwen3", [151_936, 1024, 3072, 28, 16, 8], tied)),
        (30_532_122_624, sizes("qwen3_moe", [151_936, 2048, 6144, 48, 32, 4], qwen3_moe)),
        (3_075_098_624, sizes("smollm3", [128_256, 2048, 11_008, 36, 16, 4], json!({}))),
        (3_821_079_552, sizes("phi3", [32_064, 3072, 8192, 32, 32, 32], json!({}))),
        (2_614_341_888, sizes("gemma2", [256_000, 2304, 9216, 26, 8, 4], json!({}))),
        (999_885_952, sizes("gemma3_text", [262_144, 1152, 6912, 26, 4, 1], json!({}))),
        (46_702_792_704, sizes("mixtral", [32_000, 4096, 14_336, 32, 32, 8], json!({}))),
        (
            20_914_757_184,
            sizes("gpt_oss", [201_088, 2880, 2880, 24, 64, 8], json!({"num_local_experts": 32})),
        ),
        (1_170_340_608, lfm2()),
    ]
}

/// LFM2-1.2B, as its first `config.json` had it.
fn lfm2() -> Value {
    json!({
        "model_type": "lfm2", "vocab_size": 65536, "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "norm_eps": 1e-5, "rope_theta": 1e6,
        "block_ff_dim": 12288, "block_auto_adjust_ff_dim": true, "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256, "conv_L_cache": 3, "conv_bias": false, "tie_embedding": true,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    })
}

#[test]
fn published_models_have_as_many_parameters() {
    for (expected, config) in published() {
        assert_eq!(numbers(create(&config).unwrap().as_ref()), expected, "{}", config["model_type"]);
    }
    let mut config = lfm2();
    let attention = config.as_object_mut().unwrap().remove("full_attn_idxs").unwrap();
    let kind =
        |i: i64| if attention.as_array().unwrap().contains(&i.into()) { "full_attention" } else { "conv" };
    config["layer_types"] = (0..16).map(kind).collect();
    assert_eq!(numbers(create(&config).unwrap().as_ref()), 1_170_340_608);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let refused = |family: &str, key: &str, value: Value| {
        let mut config = families().into_iter().find(|config| config["model_type"] == family).unwrap();
        config[key] = value;
        create(&config).err().unwrap_or_else(|| panic!("{family} took {key} {}", config[key])).to_string()
    };
    for (family, key, value) in [
        ("qwen2", "layer_types", json!(["full_attention", "full_attention", "linear_attention"])),
        ("qwen2", "layer_types", json!(["full_attention"])),
        ("qwen2", "hidden_act", json!("relu")),
        ("qwen2", "sliding_window", json!(0)),
        ("qwen3", "intermediate_size", json!(1_i64 << 40)),
        ("smollm3", "no_rope_layers", json!([1])),
        ("smollm3", "no_rope_layer_interval", json!("4")),
        ("phi3", "partial_rotary_factor", json!(0.4)),
        ("phi3", "sliding_window", json!("4")),
        ("gemma2", "attn_logit_softcapping", json!(-1.0)),
        ("gemma2", "final_logit_softcapping", json!("30")),
        ("gemma2", "query_pre_attn_scalar", json!(0)),
        ("gemma2", "use_bidirectional_attention", json!(true)),
        ("gemma2", "hidden_activation", json!("relu")),
        ("gemma3_text", "sliding_window_pattern", json!(0)),
        ("mixtral", "num_experts_per_tok", json!(5)),
        ("mixtral", "hidden_act", json!("gelu")),
        ("qwen3_moe", "num_experts", json!(1_i64 << 30)),
        ("qwen3_moe", "decoder_sparse_step", json!(0)),
        ("gpt_oss", "swiglu_limit", json!("7")),
        ("lfm2", "conv_L_cache", json!(0)),
        ("lfm2", "block_multiple_of", json!(0)),
        ("lfm2", "layer_types", json!(["conv", "conv", "sliding_attention"])),
        ("lfm2_moe", "routed_scaling_factor", json!("1")),
    ] {
        let message = refused(family, key, value);
        assert!(message.contains(key), "{family} {key}: {message}");
    }
    let stretched = |rope: Value| refused("phi3", "rope_scaling", rope);
    let short = json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0]});
    assert!(stretched(short).contains("short_factor"));
    assert!(stretched(json!({"type": "longrope"})).contains("short_factor"));
    assert!(stretched(json!({"type": "dynamic", "factor": 2.0})).contains("dynamic"));
    let mut many = families().into_iter().find(|config| config["model_type"] == "qwen3_moe").unwrap();
    (many["num_experts"], many["num_hidden_layers"]) = (16_000.into(), 16.into());
    assert!(create(&many).err().unwrap().to_string().contains("num_experts"));
}

/// Logits of several texts that are continued together, part by part; row `i` of `texts` in the order of its tokens.
fn continue_together(model: &Model, texts: &[Vec<u32>], parts: &[&[usize]]) -> Vec<Array> {
    let mut caches: Vec<_> = texts.iter().map(|text| model.new_cache(text.len() as i32).unwrap()).collect();
    let mut read = vec![0; texts.len()];
    let mut found: Vec<Vec<Array>> = vec![Vec::new(); texts.len()];
    for counts in parts {
        let chosen: Vec<usize> = (0..texts.len()).filter(|&i| counts[i] > 0).collect();
        let ids: Vec<u32> =
            chosen.iter().flat_map(|&i| texts[i][read[i]..read[i] + counts[i]].to_vec()).collect();
        let lengths: Vec<i32> = chosen.iter().map(|&i| counts[i] as i32).collect();
        let sequences = Sequences {
            caches: caches.iter_mut().enumerate().filter(|(i, _)| counts[*i] > 0).map(|(_, c)| c).collect(),
            counts: &lengths,
        };
        let ids = Array::from_slice(&ids, &[1, ids.len() as i32]);
        let logits = model.logits(&model.hidden_each(&ids, sequences).unwrap()).unwrap();
        eval(caches.iter().flat_map(Cache::arrays).chain([&logits])).unwrap();
        let mut first = 0;
        for (i, length) in chosen.into_iter().zip(lengths) {
            found[i].push(logits.try_index((.., first..first + length)).unwrap());
            (first, read[i]) = (first + length, read[i] + length as usize);
        }
    }
    found.iter().map(|parts| concatenate(parts, 1).unwrap()).collect()
}

fn distance(a: &Array, b: &Array) -> f32 {
    let distance = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap();
    let size = b.abs().unwrap().max(None).unwrap();
    eval([&distance, &size]).unwrap();
    distance.as_slice::<f32>()[0] / size.as_slice::<f32>()[0]
}

#[test]
fn sequences_together_are_what_each_is_alone() {
    for config in families() {
        let mut model = create(&config).unwrap();
        initialize(model.as_mut(), 0.3, 7).unwrap();
        let text = |length: u32, step: u32| (0..length).map(|i| (i * step + 3) % 40).collect::<Vec<_>>();
        let texts = [text(12, 7), text(9, 3), text(5, 11)];
        let parts: [&[usize]; 5] = [&[5, 0, 0], &[1, 4, 0], &[3, 1, 3], &[1, 1, 1], &[2, 3, 1]];
        let found = continue_together(model.as_ref(), &texts, &parts);
        for (text, found) in texts.iter().zip(found) {
            let ids = Array::from_slice(text, &[1, text.len() as i32]);
            let whole = model.forward(&ids, None).unwrap();
            let distance = distance(&found, &whole);
            assert!(distance < 1e-4, "{}: {distance}", config["model_type"]);
        }
    }
}

#[test]
fn sliding_layers_drop_what_is_out_of_reach_and_nothing_changes() {
    for mut config in families().into_iter().filter(|config| !config["sliding_window"].is_null()) {
        config["max_position_embeddings"] = 1024.into();
        let mut model = create(&config).unwrap();
        initialize(model.as_mut(), 0.3, 7).unwrap();
        let texts = [(0..700).map(|i| (i * 7 + i / 40) % 40).collect::<Vec<u32>>()];
        let found = continue_together(model.as_ref(), &texts, &[&[300], &[1], &[1], &[300], &[97], &[1]]);
        let ids = Array::from_slice(&texts[0], &[1, 700]);
        let distance = distance(&found[0], &model.forward(&ids, None).unwrap());
        assert!(distance < 1e-4, "{}: {distance}", config["model_type"]);
        let mut cache = model.new_cache(0).unwrap();
        for range in [0..300, 300..600, 600..700] {
            let hidden = model.hidden(&ids.try_index((.., range)).unwrap(), Some(&mut cache)).unwrap();
            eval(cache.arrays().chain([&hidden])).unwrap();
        }
        let stored = |array: &Array| array.dim(1);
        assert!(cache.arrays().map(stored).min() < Some(512), "{}", config["model_type"]);
    }
}

#[test]
fn a_cut_cache_is_that_of_the_shorter_text() {
    for config in families() {
        let mut model = create(&config).unwrap();
        initialize(model.as_mut(), 0.3, 7).unwrap();
        let ids = Array::from_iter((0..20).map(|i| (i * 7) % 40), &[1, 20]);
        let read = |cache: &mut Cache, range: std::ops::Range<i32>| {
            let logits = model.forward(&ids.try_index((.., range)).unwrap(), Some(cache)).unwrap();
            eval(cache.arrays().chain([&logits])).unwrap();
            logits
        };
        let mut cache = model.new_cache(0).unwrap();
        read(&mut cache, 0..15);
        let has_conv = cache.layers.iter().any(|layer| matches!(layer, LayerCache::Conv(_)));
        assert_eq!(cache.truncate(9), !has_conv, "{}", config["model_type"]);
        if !has_conv {
            let found = read(&mut cache, 9..15);
            let whole = model.forward(&ids.try_index((.., ..15)).unwrap(), None).unwrap();
            let distance = distance(&found, &whole.try_index((.., 9..)).unwrap());
            assert!(distance < 1e-4, "{}: {distance}", config["model_type"]);
        }
    }
}
