//! Models for tests of what moves factors between layers.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::module::ModuleParameters as _;
use serde_json::{Value, json};

use crate::calibrate::BlockStream;
use crate::models::{Model, create, initialize};

/// Small models with grouped queries, experts, norms with an offset, fused layers and convolutions.
pub(super) fn configurations() -> Vec<Value> {
    let config = |model_type: &str, more: Value| {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 128, "tie_word_embeddings": false,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    vec![
        config("llama", json!({})),
        config("mixtral", json!({"num_local_experts": 4})),
        config("gemma2", json!({})),
        config("phi3", json!({})),
        config("gpt_oss", json!({"num_local_experts": 4, "num_experts_per_tok": 2})),
        config("lfm2", json!({"full_attn_idxs": [1], "block_multiple_of": 32})),
    ]
}

/// A model whose channels differ, and the stream of calibration sequences in front of its first block.
pub(super) fn model(config: &Value) -> (Box<Model>, BlockStream) {
    let mut model = create(config).unwrap();
    initialize(model.as_mut(), 0.2, 5).unwrap();
    for (name, parameter) in model.parameters_mut().flatten().into_iter().collect::<BTreeMap<_, _>>() {
        if name.contains("norm") && parameter.ndim() == 1 {
            let spread = |i: i32| if i % 13 == 5 { 8.0 } else { 0.1 * (i % 7) as f32 };
            let spread: Vec<f32> = (0..parameter.dim(0)).map(spread).collect();
            *parameter = parameter.add(Array::from_slice(&spread, &[parameter.dim(0)])).unwrap();
        }
    }
    let sequences: Vec<Vec<u32>> =
        (0..4).map(|row| (0..48).map(|i| (i * i * 3 + i * (row + 2)) % 40).collect()).collect();
    let stream = BlockStream::start(model.as_ref(), &sequences).unwrap();
    (model, stream)
}
