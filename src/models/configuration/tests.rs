//! Defaults that no small model shows. What decides about logits is compared with transformers in `tests/parity`.

use mlx_rs::module::ModuleParameters as _;
use serde_json::{Value, json};

use super::{Family, RopeKeys, Shape, Windows};
use crate::kernels::attention::Mask;
use crate::models::{Model, create};

fn config(more: &Value) -> Value {
    let mut config = json!({
        "vocab_size": 40, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 16,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn masks(windows: Windows, more: &Value) -> Vec<Mask> {
    let shape = Shape::parse(&config(more), &Family { windows, ..Family::LLAMA }).unwrap();
    (0..shape.layers).map(|i| shape.attention(i).mask).collect()
}

#[test]
fn absent_windows_have_the_size_of_the_family() {
    let (full, wide) = (Mask::Causal, Mask::Sliding(9));
    let (absent, used) = (json!({}), json!({"use_sliding_window": true}));
    let first = json!({"use_sliding_window": true, "max_window_layers": 1});
    for (windows, keys, expected) in [
        (Windows::Never, &absent, [full; 3]),
        (Windows::Always, &absent, [full; 3]),
        (Windows::AlwaysByType(9), &absent, [wide; 3]),
        (Windows::IfUsed(9), &absent, [full; 3]),
        (Windows::IfUsed(9), &used, [wide; 3]),
        (Windows::FromLayer(9), &used, [full; 3]),
        (Windows::FromLayer(9), &first, [full, wide, wide]),
        (Windows::EveryOther(9), &absent, [wide, full, wide]),
        (Windows::Pattern(9), &absent, [wide; 3]),
        (Windows::Pattern(9), &json!({"sliding_window_pattern": 3}), [wide, wide, full]),
    ] {
        assert_eq!(masks(windows, keys), expected, "{windows:?} {keys}");
    }
}

#[test]
fn null_sizes_are_derived_and_absent_ones_are_those_of_the_family() {
    let family = Family { kv_heads: Some(8), head_dim: Some(6), ..Family::LLAMA };
    let sizes = |more: &Value| {
        let shape = Shape::parse(&config(more), &family).unwrap();
        [shape.kv_heads, shape.head_dim]
    };
    assert_eq!(sizes(&json!({})), [8, 6]);
    assert_eq!(sizes(&json!({"num_key_value_heads": null, "head_dim": null})), [16, 4]);
    assert_eq!(sizes(&json!({"num_key_value_heads": 2, "head_dim": 10})), [2, 10]);
}

#[test]
fn lengths_with_rotations_of_their_own_need_other_graphs() {
    let model = |rope: Value| -> Box<Model> {
        let keys = json!({
            "model_type": "llama", "max_position_embeddings": 32, "rope_scaling": rope,
        });
        create(&config(&keys)).unwrap()
    };
    let plain = model(Value::Null);
    let dynamic = model(json!({"type": "dynamic", "factor": 2.0}));
    let longrope = model(json!({
        "type": "longrope", "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0],
    }));
    let lengths = [16, 17, 32, 33, 34];
    let variants = |model: &Model| lengths.map(|length| model.rotation_variant(length));
    assert_eq!(variants(plain.as_ref()), [0; 5]);
    assert_eq!(variants(dynamic.as_ref()), [0, 0, 0, 33, 34]);
    assert_eq!(variants(longrope.as_ref()), [0, 1, 1, 1, 1]);
    let invalid = |model: &Model| lengths.map(|length| model.invalidates_cache(length));
    assert_eq!(invalid(dynamic.as_ref()), [false; 5]);
    assert_eq!(invalid(longrope.as_ref()), [false, true, false, false, false]);
}

#[test]
fn mistral_has_no_biases() {
    let biased = |model_type: &str| {
        let keys = json!({
            "model_type": model_type, "num_key_value_heads": 8, "attention_bias": true, "mlp_bias": true,
        });
        create(&config(&keys)).unwrap().parameters().flatten().keys().any(|name| name.ends_with(".bias"))
    };
    assert_eq!(["llama", "mistral"].map(biased), [true, false]);
}

#[test]
fn keys_that_would_change_single_layers_are_named() {
    let refused = |more: &Value, rope: RopeKeys| {
        Shape::parse(&config(more), &Family { rope, ..Family::LLAMA }).unwrap_err().to_string()
    };
    let layers = json!({"per_layer_config": {"0": {"num_attention_heads": 2}}});
    assert!(refused(&layers, RopeKeys::Shared).contains("\"per_layer_config\""));
    let each = json!({"rope_parameters": {"full_attention": 3}});
    assert!(refused(&each, RopeKeys::PerLayerType).contains("\"rope_parameters.full_attention\""));
}
