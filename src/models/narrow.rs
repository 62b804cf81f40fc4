//! `config.json` of narrower models, in the keys that this engine, transformers and mlx-lm all read.

use serde_json::Value;

use crate::io::config;
use crate::{Error, Result};

/// Families whose heads mlx-lm takes to be of `hidden_size / num_attention_heads`, whatever `head_dim` says.
const DERIVED_HEADS: [&str; 5] = ["lfm2", "lfm2_moe", "mixtral", "phi3", "qwen2"];

/// Returns `config` for a model whose feed-forward layers have `count` channels.
///
/// # Errors
/// A `config` that does not say how many they have.
pub fn set_channels(config: &Value, count: usize) -> Result<Value> {
    let keys = ["intermediate_size", "block_ff_dim"];
    let known: Vec<&str> = keys.into_iter().filter(|key| config[*key].is_u64()).collect();
    let lfm2 = config["model_type"] == "lfm2";
    if known.is_empty() && !lfm2 {
        return Err(Error::Config(format!("config.json has no \"{}\"", keys[0])));
    }
    let mut cut = config.clone();
    for key in known.into_iter().chain(lfm2.then_some(keys[0])) {
        cut[key] = count.into();
    }
    if lfm2 {
        // Else the number of channels would be computed from this one.
        cut["block_auto_adjust_ff_dim"] = false.into();
    }
    Ok(cut)
}

/// Returns `config` for a model with this number of query heads and of key heads, each of dimension `head_dim`.
#[must_use]
pub fn set_heads(config: &Value, heads: usize, kv_heads: usize, head_dim: usize) -> Value {
    let mut cut = config.clone();
    let sizes = [("num_attention_heads", heads), ("num_key_value_heads", kv_heads), ("head_dim", head_dim)];
    for (key, size) in sizes {
        cut[key] = size.into();
    }
    cut
}

/// Returns `config` for a model with `hidden` channels between its blocks.
#[must_use]
pub fn set_hidden(config: &Value, hidden: usize) -> Value {
    let mut cut = config.clone();
    cut["hidden_size"] = hidden.into();
    cut
}

/// Families of which transformers refuses a hidden size that is not a multiple of the number of heads.
const DIVISIBLE: [&str; 3] = ["gemma2", "gemma3_text", "llama"];

/// The number that the hidden size of a model with the heads of `config` must be a multiple of.
///
/// # Errors
/// A `config` without a `model_type`.
pub fn hidden_multiple(config: &Value) -> Result<usize> {
    let number = |key: &str| config[key].as_u64().unwrap_or(1).max(1) as usize;
    let derived = DERIVED_HEADS.contains(&config::string(config, "model_type")?);
    Ok(number("num_attention_heads") * if derived { number("head_dim") } else { 1 })
}

/// Checks that other libraries take heads to be of the size and number that `config` says.
///
/// # Errors
/// A family in which they do not.
pub fn check_heads(config: &Value) -> Result<()> {
    let family = config::string(config, "model_type")?;
    let number = |key: &str| config[key].as_u64().unwrap_or_default();
    let (heads, size, hidden) = (number("num_attention_heads"), number("head_dim"), number("hidden_size"));
    if DERIVED_HEADS.contains(&family) && heads * size != hidden {
        return Err(Error::Config(format!(
            "{heads} heads of {size} would be left for a hidden size of {hidden}, but mlx-lm takes those of a {family} model \
             to be of hidden_size / num_attention_heads"
        )));
    }
    if DIVISIBLE.contains(&family) && !hidden.is_multiple_of(heads.max(1)) {
        return Err(Error::Config(format!(
            "{heads} heads would be left for a hidden size of {hidden}, but transformers wants that of a {family} model to be \
             a multiple of their number: choose another sparsity, or remove some of the hidden size too"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_that_other_libraries_would_not_see_are_refused() {
        let config = json!({"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4});
        let fewer = set_heads(&config, 2, 1, 16);
        let message = check_heads(&fewer).unwrap_err().to_string();
        assert!(message.contains("2 heads of 16 would be left for a hidden size of 64"), "{message}");
        check_heads(&set_hidden(&fewer, 32)).unwrap();
        let mut llama = fewer;
        llama["model_type"] = "llama".into();
        check_heads(&llama).unwrap();
        assert_eq!(
            (hidden_multiple(&set_heads(&config, 2, 1, 16)).unwrap(), hidden_multiple(&llama).unwrap()),
            (32, 2)
        );
        let message = check_heads(&set_heads(&llama, 3, 3, 16)).unwrap_err().to_string();
        assert!(message.contains("wants that of a llama model to be a multiple"), "{message}");
        assert_eq!((&llama["num_key_value_heads"], &llama["head_dim"]), (&json!(1), &json!(16)));
    }
}
