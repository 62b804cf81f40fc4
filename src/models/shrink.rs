//! `config.json` of models with fewer blocks, in the keys that this engine, transformers and mlx-lm all read.

use serde_json::{Value, json};

use super::configuration::{flag, layer_types};
use crate::io::config;
use crate::{Error, Result};

const TYPES: &str = "layer_types";
const PATTERN: &str = "sliding_window_pattern";

/// Returns `config` for a model that has only the blocks number `kept`, in order.
///
/// # Errors
/// The family cannot express it; a key of the wrong type.
pub fn keep_blocks(config: &Value, kept: &[usize]) -> Result<Value> {
    let layers = layers(config)?;
    let family = config::string(config, "model_type")?;
    let mut cut = config.clone();
    cut["num_hidden_layers"] = kept.len().into();
    for key in [TYPES, "no_rope_layers"] {
        if let Some(list) = config[key].as_array() {
            cut[key] = kept.iter().filter_map(|&i| list.get(i)).cloned().collect();
        }
    }
    for key in ["full_attn_idxs", "mlp_only_layers"] {
        if let Some(indices) = config[key].as_array() {
            let listed = |i: usize| indices.iter().any(|index| index.as_u64() == Some(i as u64));
            cut[key] = positions(kept, listed);
        }
    }
    let number = |key: &str, default: u64| config[key].as_u64().unwrap_or(default);
    let before = |first: u64| json!(kept.iter().filter(|&&i| (i as u64) < first).count());
    match family {
        "gemma2" | "gpt_oss" if config[TYPES].is_null() => {
            let types = types(config, layers)?.unwrap_or_default();
            cut[TYPES] = kept.iter().map(|&i| types[i].as_str()).collect();
        }
        "lfm2_moe" => cut["num_dense_layers"] = before(number("num_dense_layers", 2)),
        "qwen2" | "qwen3" if flag(config, "use_sliding_window", false)? => {
            cut["max_window_layers"] = before(number("max_window_layers", 28));
        }
        "qwen3_moe" if number("decoder_sparse_step", 1) > 1 => {
            cut["mlp_only_layers"] = positions(kept, |i| !has_experts(config, family, i));
            cut["decoder_sparse_step"] = 1.into();
        }
        "smollm3" if config["no_rope_layers"].is_null() => {
            let interval = number("no_rope_layer_interval", 4).max(1);
            let has_rope = |&i: &usize| u8::from(!(i as u64 + 1).is_multiple_of(interval));
            cut["no_rope_layers"] = kept.iter().map(has_rope).collect();
        }
        _ => {}
    }
    let routed = |i: &usize| has_experts(config, family, *i);
    if (0..layers).any(|i| routed(&i)) && !kept.iter().any(routed) {
        return Err(Error::Config("no layer with experts would be left".into()));
    }
    if let Some(types) = types(config, layers)? {
        let left: Vec<&str> = kept.iter().map(|&i| types[i].as_str()).collect();
        if let Some(gone) = types.iter().find(|kind| !left.contains(&kind.as_str())) {
            return Err(Error::Config(format!(
                "no \"{gone}\" layer would be left, which other libraries need to read a {family} model"
            )));
        }
        if family == "gemma3_text" {
            set_pattern(&mut cut, &left)?;
        }
    }
    Ok(cut)
}

/// Whether only consecutive blocks can go, because the kind of a block follows from its number.
///
/// # Errors
/// A key that is missing or of the wrong type.
pub fn needs_consecutive(config: &Value) -> Result<bool> {
    let types = types(config, layers(config)?)?.unwrap_or_default();
    Ok(config["model_type"] == "gemma3_text" && types.iter().any(|kind| *kind != types[0]))
}

/// Sets the pattern of a Gemma 3 whose layers have these types: mlx-lm knows them by their numbers alone.
fn set_pattern(config: &mut Value, types: &[&str]) -> Result<()> {
    let slides = |pattern: usize| {
        types
            .iter()
            .enumerate()
            .all(|(i, kind)| (*kind == "sliding_attention") != (i + 1).is_multiple_of(pattern))
    };
    let Some(pattern) = (1..=types.len()).find(|&pattern| slides(pattern)) else {
        return Err(Error::Config(format!(
            "the layers that would be left have no \"{PATTERN}\", by which a gemma3_text model says which of them slide"
        )));
    };
    config[PATTERN] = pattern.into();
    // As transformers writes it.
    if !config["_sliding_window_pattern"].is_null() {
        config["_sliding_window_pattern"] = pattern.into();
    }
    Ok(())
}

/// The type of each layer, of families where layers differ in it.
fn types(config: &Value, layers: usize) -> Result<Option<Vec<String>>> {
    if let Some(types) = layer_types(config, layers)? {
        return Ok(Some(types));
    }
    let by = |is_full: &dyn Fn(usize) -> bool, other: &str| {
        let name = |i| if is_full(i) { "full_attention" } else { other };
        Some((0..layers).map(|i| name(i).to_owned()).collect())
    };
    Ok(match config::string(config, "model_type")? {
        "gemma2" | "gpt_oss" => by(&|i| i % 2 == 1, "sliding_attention"),
        "gemma3_text" => {
            let pattern = config[PATTERN].as_u64().unwrap_or(6).max(1);
            by(&|i| (i as u64 + 1).is_multiple_of(pattern), "sliding_attention")
        }
        "lfm2" => {
            let full = config["full_attn_idxs"].as_array();
            let attends = |i: usize| full.is_none_or(|full| full.iter().any(|index| *index == json!(i)));
            by(&attends, "conv")
        }
        _ => None,
    })
}

/// Whether layer number `i` has experts, in families where layers differ in it.
fn has_experts(config: &Value, family: &str, i: usize) -> bool {
    let number = |key: &str, default: u64| config[key].as_u64().unwrap_or(default);
    match family {
        "lfm2_moe" => i as u64 >= number("num_dense_layers", 2),
        "qwen3_moe" => {
            let step = number("decoder_sparse_step", 1).max(1);
            let dense = config["mlp_only_layers"].as_array();
            let listed = dense.is_some_and(|dense| dense.iter().any(|index| *index == json!(i)));
            !listed && (i as u64 + 1).is_multiple_of(step)
        }
        _ => false,
    }
}

/// Positions in `kept` of the blocks that are `listed`.
fn positions(kept: &[usize], listed: impl Fn(usize) -> bool) -> Value {
    kept.iter().enumerate().filter(|&(_, &i)| listed(i)).map(|(position, _)| position).collect()
}

fn layers(config: &Value) -> Result<usize> {
    let key = "num_hidden_layers";
    let count = config[key].as_i64().unwrap_or_default();
    config::size(key, count, 1 << 12).map(|count| count as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_and_number_of_layers_is_cut() {
        let full = ["sliding_attention", "full_attention"];
        let cut = |config: Value, kept: &[usize]| keep_blocks(&config, kept).unwrap();
        let config = json!({"model_type": "gpt_oss", "num_hidden_layers": 4});
        let found = cut(config, &[0, 3]);
        assert_eq!(found[TYPES], json!(full));
        assert_eq!(found["num_hidden_layers"], 2);
        let config = json!({"model_type": "lfm2", "num_hidden_layers": 5, "full_attn_idxs": [2, 4]});
        assert_eq!(cut(config, &[0, 2, 3])["full_attn_idxs"], json!([1]));
        let config = json!({"model_type": "smollm3", "num_hidden_layers": 5, "no_rope_layer_interval": 2});
        assert_eq!(cut(config, &[1, 2, 3])["no_rope_layers"], json!([0, 1, 0]));
        let config = json!({"model_type": "qwen3_moe", "num_hidden_layers": 4, "decoder_sparse_step": 2,
            "mlp_only_layers": [3]});
        let message = keep_blocks(&config, &[0, 2, 3]).unwrap_err().to_string();
        assert!(message.contains("no layer with experts"), "{message}");
        let found = cut(config, &[1, 2, 3]);
        assert_eq!((&found["mlp_only_layers"], &found["decoder_sparse_step"]), (&json!([1, 2]), &json!(1)));
        let config = json!({"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": true,
            "max_window_layers": 2});
        assert_eq!(cut(config, &[1, 2, 3])["max_window_layers"], 1);
        let config = json!({"model_type": "lfm2_moe", "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "conv"]});
        let message = keep_blocks(&config, &[0, 1]).unwrap_err().to_string();
        assert!(message.contains("no layer with experts"), "{message}");
        let found = cut(config, &[1, 3]);
        assert_eq!(
            (&found["num_dense_layers"], &found[TYPES]),
            (&json!(1), &json!(["full_attention", "conv"]))
        );
    }

    #[test]
    fn what_a_family_cannot_express_is_refused() {
        let gemma = json!({"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3});
        assert!(needs_consecutive(&gemma).unwrap());
        assert_eq!(keep_blocks(&gemma, &[0, 1, 2]).unwrap()[PATTERN], 3);
        assert_eq!(keep_blocks(&gemma, &[0, 2, 3, 5]).unwrap()[PATTERN], 2);
        let message = keep_blocks(&gemma, &[1, 2, 3, 4, 5]).unwrap_err().to_string();
        assert!(message.contains("no \"sliding_window_pattern\""), "{message}");
        let lfm2 = json!({"model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [2]});
        assert!(!needs_consecutive(&lfm2).unwrap());
        let message = keep_blocks(&lfm2, &[0, 1]).unwrap_err().to_string();
        assert!(message.contains("no \"full_attention\" layer would be left"), "{message}");
    }
}
