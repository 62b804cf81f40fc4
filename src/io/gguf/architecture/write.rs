//! The metadata and tensors of factors that describe a `config.json`.

use serde_json::Value as Json;

use super::Architecture;
use super::rope::{FACTORS, llama3_factors};
use crate::io::gguf::{Array, Metadata, Value};
use crate::{Error, Result};

/// Keys of `config.json` with a whole number, and what they are called here.
const COUNTS: [(&str, &str); 7] = [
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("sliding_window", "attention.sliding_window"),
    ("conv_L_cache", "shortconv.l_cache"),
];

/// As [`COUNTS`], with a fraction.
const FLOATS: [(&str, &str); 4] = [
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
];

/// What is written about a model besides its weights and its tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Values of the architecture.
    pub metadata: Metadata,
    /// Tensors that say how rotations are scaled.
    pub factors: Vec<(&'static str, Vec<f32>)>,
}

/// Describes the model of `config`, a `config.json` in which every key that matters is present.
///
/// # Errors
/// An architecture or a setting that the format cannot express.
pub fn metadata(config: &Json) -> Result<Description> {
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let architecture = Architecture::of_model(model_type).ok_or_else(|| {
        Error::Config(format!(
            "a model of type \"{model_type}\" cannot be written as GGUF; supported are: {}",
            Architecture::supported()
        ))
    })?;
    let mut writer = Writer { config, architecture, metadata: Metadata::default(), factors: Vec::new() };
    writer.sizes()?;
    writer.rotation()?;
    Ok(Description { metadata: writer.metadata, factors: writer.factors })
}

struct Writer<'a> {
    config: &'a Json,
    architecture: &'static Architecture,
    metadata: Metadata,
    factors: Vec<(&'static str, Vec<f32>)>,
}

impl Writer<'_> {
    fn put(&mut self, key: &str, value: Value) {
        self.metadata.insert(format!("{}.{key}", self.architecture.name), value);
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        match &self.config[key] {
            Json::Null => Ok(None),
            value => match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
                Some(count) => Ok(Some(count)),
                None => Err(Error::Config(format!("\"{key}\" is {value}, expected a whole number"))),
            },
        }
    }

    fn required(&self, key: &str) -> Result<u32> {
        self.count(key)?.ok_or_else(|| Error::Config(format!("\"{key}\" is missing")))
    }

    fn sizes(&mut self) -> Result<()> {
        self.metadata.insert("general.architecture", Value::String(self.architecture.name.to_owned()));
        for (key, name) in COUNTS {
            // Windows of models that do not use them.
            let is_unused = key == "sliding_window" && self.config["use_sliding_window"] == false;
            if let Some(count) = self.count(key)?.filter(|_| !is_unused) {
                self.put(name, Value::U32(count));
            }
        }
        for (key, name) in FLOATS {
            if let Some(value) = self.config[key].as_f64() {
                self.put(name, Value::F32(value as f32));
            }
        }
        let epsilon = self.config[self.architecture.epsilon].as_f64();
        let epsilon =
            epsilon.ok_or_else(|| Error::Config(format!("\"{}\" is missing", self.architecture.epsilon)))?;
        self.put("attention.layer_norm_rms_epsilon", Value::F32(epsilon as f32));
        let heads = self.required("num_attention_heads")?;
        let kv_heads = self.count("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = self.count("head_dim")?.unwrap_or(self.required("hidden_size")? / heads.max(1));
        self.put("attention.key_length", Value::U32(head_dim));
        self.put("attention.value_length", Value::U32(head_dim));
        let partial = self.config["partial_rotary_factor"].as_f64().unwrap_or(1.0);
        self.put("rope.dimension_count", Value::U32((f64::from(head_dim) * partial) as u32));
        if let Some(vocabulary) = self.count("vocab_size")? {
            self.put("vocab_size", Value::U32(vocabulary));
        }
        let types: Vec<&str> =
            self.config["layer_types"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if self.architecture.name == "lfm2" {
            let heads = |&kind: &&str| if kind == "conv" { 0 } else { kv_heads as i32 };
            let heads = types.iter().map(heads).collect();
            self.put("attention.head_count_kv", Value::Array(Array::I32(heads)));
        } else {
            self.put("attention.head_count_kv", Value::U32(kv_heads));
            if types.contains(&"sliding_attention") {
                let slides = types.iter().map(|&kind| kind == "sliding_attention").collect();
                self.put("attention.sliding_window_pattern", Value::Array(Array::Bool(slides)));
            }
        }
        Ok(())
    }

    fn rotation(&mut self) -> Result<()> {
        let scaling = ["rope_scaling", "rope_parameters"].map(|key| &self.config[key]);
        let Some(scaling) = scaling.into_iter().find(|scaling| scaling.is_object()) else { return Ok(()) };
        let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
        let number = |key: &str| {
            scaling[key]
                .as_f64()
                .ok_or_else(|| Error::Config(format!("\"rope_scaling.{key}\" is missing or not a number")))
        };
        let list = |key: &str| -> Vec<f32> {
            let values = scaling[key].as_array().into_iter().flatten();
            values.filter_map(Json::as_f64).map(|value| value as f32).collect()
        };
        match kind {
            "default" => {}
            "linear" | "yarn" => {
                let factor = number("factor")?;
                self.put("rope.scaling.type", Value::String(kind.to_owned()));
                self.put("rope.scaling.factor", Value::F32(factor as f32));
                if kind == "yarn" {
                    let original = number("original_max_position_embeddings")?;
                    self.put("rope.scaling.original_context_length", Value::U32(original as u32));
                    for (key, name) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                        if let Some(value) = scaling[key].as_f64() {
                            self.put(&format!("rope.scaling.{name}"), Value::F32(value as f32));
                        }
                    }
                    if let Some(attention) = scaling["attention_factor"].as_f64() {
                        let relative = attention / (0.1 * factor.ln() + 1.0);
                        self.put("rope.scaling.yarn_attn_factor", Value::F32(relative as f32));
                    }
                }
            }
            "llama3" => {
                let settings = [
                    number("factor")?,
                    number("low_freq_factor")?,
                    number("high_freq_factor")?,
                    number("original_max_position_embeddings")?,
                ];
                let heads = self.required("num_attention_heads")?.max(1);
                let head_dim = self.count("head_dim")?.unwrap_or(self.required("hidden_size")? / heads);
                let theta = self.config["rope_theta"].as_f64().or(scaling["rope_theta"].as_f64());
                let theta = theta.unwrap_or(10_000.0);
                let factors = llama3_factors(head_dim as usize, theta, settings);
                self.factors.push((FACTORS[0], factors.into_iter().map(|factor| factor as f32).collect()));
            }
            "su" | "longrope" if self.architecture.name == "phi3" => {
                self.put("rope.scaling.type", Value::String("longrope".to_owned()));
                let longest = f64::from(self.required("max_position_embeddings")?);
                let original = self.config["original_max_position_embeddings"].as_f64();
                let original = original.map_or_else(|| number("original_max_position_embeddings"), Ok)?;
                self.put("rope.scaling.original_context_length", Value::U32(original as u32));
                let scale = longest / original;
                let usual = if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 };
                let attention = scaling["attention_factor"].as_f64().unwrap_or(usual);
                self.put("rope.scaling.attn_factor", Value::F32(attention as f32));
                self.factors.push((FACTORS[1], list("long_factor")));
                self.factors.push((FACTORS[2], list("short_factor")));
            }
            "longrope" if scaling["long_factor"] == scaling["short_factor"] => {
                self.factors.push((FACTORS[0], list("long_factor")));
            }
            other => {
                return Err(Error::Config(format!(
                    "\"rope_scaling\" is of type \"{other}\", which GGUF cannot express for this architecture"
                )));
            }
        }
        Ok(())
    }
}
