//! The `config.json` of a file.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Architecture;
use super::formats::formats;
use super::keys::Keys;
use super::rope::{FACTORS, Rotation};
use crate::io::gguf::decode::read_blocks;
use crate::io::gguf::{Array, Reader};
use crate::io::quantization::describe;
use crate::{Error, Result};

/// The architecture of a file.
///
/// # Errors
/// One that is not read.
pub fn architecture(reader: &Reader) -> Result<&'static Architecture> {
    let key = "general.architecture";
    let name = reader.metadata().string(key).map_err(|error| reader.error(&error))?;
    let name = name.ok_or_else(|| reader.error(&format!("\"{key}\" is missing")))?;
    let kind = reader.metadata().string("general.type").map_err(|error| reader.error(&error))?;
    if let Some(kind) = kind.filter(|kind| *kind != "model") {
        return Err(reader.error(&format!("it holds a part of another model (\"{kind}\"), not a model")));
    }
    let parts = reader.metadata().count("split.count").map_err(|error| reader.error(&error))?;
    if let Some(parts) = parts.filter(|&parts| parts > 1) {
        return Err(reader.error(&format!(
            "it is one of {parts} parts of a model; join them with llama-gguf-split --merge"
        )));
    }
    Architecture::of_file(name).ok_or_else(|| {
        reader.error(&format!("\"{key}\" is \"{name}\"; supported are: {}", Architecture::supported()))
    })
}

/// The `config.json` that describes the model in a file, as transformers has it.
///
/// # Errors
/// An architecture that is not read; keys that are missing, of another type or do not fit the tensors.
pub fn config(reader: &mut Reader) -> Result<Value> {
    let architecture = architecture(reader)?;
    let factors = FACTORS.map(|name| floats(reader, name));
    let [frequencies, long, short] = factors;
    let factors = [frequencies?, long?, short?];
    let source = Source {
        reader,
        architecture,
        keys: Keys { metadata: reader.metadata(), architecture: architecture.name },
    };
    source.read(factors).map_err(|error| reader.error(&error))
}

/// The numbers of a small tensor; `None` if there is none.
fn floats(reader: &mut Reader, name: &str) -> Result<Option<Vec<f32>>> {
    const LARGEST: usize = 1 << 14;
    let Some(info) = reader.tensors().get(name).cloned() else { return Ok(None) };
    let count: usize = info.shape.iter().product();
    if count > LARGEST {
        return Err(
            reader.error(&format!("tensor \"{name}\" has {count} numbers, expected at most {LARGEST}"))
        );
    }
    let mut bytes = vec![0; info.bytes];
    reader.read(info.start, &mut bytes)?;
    let mut values = vec![0.0; count];
    read_blocks(info.kind, &bytes, &mut values);
    Ok(Some(values))
}

struct Source<'a> {
    reader: &'a Reader,
    architecture: &'static Architecture,
    keys: Keys<'a>,
}

impl Source<'_> {
    fn read(&self, factors: [Option<Vec<f32>>; 3]) -> Result<Value> {
        let (keys, architecture) = (self.keys, self.architecture);
        if keys.count("expert_count")?.is_some_and(|count| count > 0) {
            return Err(Error::ModelLoading(format!(
                "\"{}\": models with experts are not read from this format; load the original checkpoint",
                keys.full("expert_count")
            )));
        }
        let hidden = keys.required("embedding_length")?;
        let layers = keys.required("block_count")?;
        let heads = keys.required("attention.head_count")?;
        let context = keys.required("context_length")?;
        let vocabulary = self.check_sizes(hidden, layers)?;
        let head_dim = self.head_dim(hidden, heads)?;
        let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
        let kv_heads = keys.count("attention.head_count_kv")?.unwrap_or(heads);
        let epsilon = "attention.layer_norm_rms_epsilon";
        let mut config = json!({
            "architectures": [architecture.class],
            "model_type": architecture.model_types[0],
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": keys.required("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": context,
            "vocab_size": vocabulary,
            "rope_theta": theta,
            "tie_word_embeddings": !self.has("output.weight"),
        });
        config[architecture.epsilon] = keys.float(epsilon)?.ok_or_else(|| keys.missing(epsilon))?.into();
        for (key, name) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")] {
            if let Some(id) = keys.metadata.count(&format!("tokenizer.ggml.{key}"))? {
                config[name] = id.into();
            }
        }
        let dims = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
        if dims != head_dim && architecture.name != "phi3" {
            return Err(Error::ModelLoading(format!(
                "\"{}\" is {dims}, but this architecture rotates whole heads of {head_dim}",
                keys.full("rope.dimension_count")
            )));
        }
        let rotation = Rotation { keys, dims: dims as usize, theta, context, factors };
        if let Some(scaling) = rotation.scaling()? {
            config["rope_scaling"] = scaling;
        }
        if let Some(fields) = config.as_object_mut() {
            self.extend(fields, [hidden, layers, heads, head_dim, dims])?;
        }
        let formats = formats(self.reader, architecture);
        if !formats.is_empty() {
            config["quantization"] = describe(&formats);
        }
        Ok(config)
    }

    /// Adds what one architecture has.
    fn extend(&self, config: &mut Map<String, Value>, sizes: [u64; 5]) -> Result<()> {
        let (keys, [hidden, layers, heads, head_dim, dims]) = (self.keys, sizes);
        let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
        match self.architecture.name {
            "llama" | "qwen3" => {
                set("attention_bias", self.has("blk.0.attn_q.bias").into());
                set("mlp_bias", self.has("blk.0.ffn_gate.bias").into());
            }
            "smollm3" => {
                set("no_rope_layer_interval", 4.into());
                set("use_sliding_window", false.into());
            }
            "gemma2" | "gemma3" => {
                let largest = if self.architecture.name == "gemma2" { 46 } else { 62 };
                // Alone the largest model of a family divides by something else than the size of heads.
                let scalar = if layers == largest { hidden / heads } else { head_dim };
                set("query_pre_attn_scalar", scalar.into());
                set("hidden_activation", "gelu_pytorch_tanh".into());
                for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                    set(key, keys.float(key)?.map_or(Value::Null, Value::from));
                }
                match keys.count("attention.sliding_window")? {
                    Some(window) if window > 0 => set("sliding_window", window.into()),
                    _ if self.architecture.name == "gemma2" => set("sliding_window", 4096.into()),
                    _ => {}
                }
                let every = if self.architecture.name == "gemma2" { 2 } else { 6 };
                set("layer_types", self.layer_types(layers, every)?);
                if self.architecture.name == "gemma3" {
                    let theta = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
                    set("rope_local_base_freq", theta.into());
                }
            }
            "phi3" => {
                let window = keys.count("attention.sliding_window")?.filter(|&window| window > 0);
                set("sliding_window", window.map_or(Value::Null, Value::from));
                set("partial_rotary_factor", (dims as f64 / head_dim as f64).into());
                if let Some(original) = keys.count("rope.scaling.original_context_length")? {
                    set("original_max_position_embeddings", original.into());
                }
            }
            "lfm2" => {
                let length = keys.required("shortconv.l_cache")?;
                set("conv_L_cache", length.into());
                set("conv_bias", self.has("blk.0.shortconv.in_proj.bias").into());
                set("block_auto_adjust_ff_dim", false.into());
                let key = keys.full("attention.head_count_kv");
                let types = match keys.list("attention.head_count_kv") {
                    Some(_) => keys.metadata.counts(&key)?.unwrap_or_default(),
                    None => vec![1; layers as usize],
                };
                if types.len() as u64 != layers {
                    return Err(Error::ModelLoading(format!(
                        "\"{key}\" has {} entries for {layers} layers",
                        types.len()
                    )));
                }
                let name = |&heads: &u64| if heads == 0 { "conv" } else { "full_attention" };
                set("layer_types", types.iter().map(name).collect());
            }
            _ => {}
        }
        Ok(())
    }

    /// Types of layers, where all but every so many slide unless the file says otherwise.
    fn layer_types(&self, layers: u64, every: u64) -> Result<Value> {
        let key = "attention.sliding_window_pattern";
        let window = self.keys.count("attention.sliding_window")?;
        let has_window = window.is_some_and(|window| window > 0) || self.architecture.name == "gemma2";
        let name = |slides: bool| if slides && has_window { "sliding_attention" } else { "full_attention" };
        if let Some(list) = self.keys.list(key) {
            return match list {
                Array::Bool(flags) if flags.len() as u64 == layers => {
                    Ok(flags.iter().map(|&slides| name(slides)).collect())
                }
                _ => Err(Error::ModelLoading(format!(
                    "\"{}\" is not a flag for each of {layers} layers",
                    self.keys.full(key)
                ))),
            };
        }
        let every = self.keys.count(key)?.unwrap_or(every).max(1);
        Ok((1..=layers).map(|layer| name(layer % every != 0)).collect())
    }

    fn has(&self, tensor: &str) -> bool {
        self.reader.tensors().contains_key(tensor)
    }

    /// Checks sizes that a model is built from against the tensors, and returns the size of the vocabulary.
    fn check_sizes(&self, hidden: u64, layers: u64) -> Result<u64> {
        let name = "token_embd.weight";
        let embeddings = self.reader.tensors().get(name);
        let shape = embeddings.map_or(&[][..], |info| &info.shape);
        let &[vocabulary, columns] = shape else {
            return Err(Error::ModelLoading(format!(
                "tensor \"{name}\" has shape {shape:?}, expected a matrix"
            )));
        };
        if columns as u64 != hidden {
            return Err(Error::ModelLoading(format!(
                "\"{}\" is {hidden}, but tensor \"{name}\" has rows of {columns}",
                self.keys.full("embedding_length")
            )));
        }
        let layer = |name: &String| Some(name.strip_prefix(super::LAYERS.0)?.split_once('.')?.0.to_owned());
        let stored = self.reader.tensors().keys().filter_map(layer).collect::<BTreeSet<_>>().len();
        if stored as u64 != layers {
            return Err(Error::ModelLoading(format!(
                "\"{}\" is {layers}, but there are tensors of {stored} layers",
                self.keys.full("block_count")
            )));
        }
        Ok(vocabulary as u64)
    }

    fn head_dim(&self, hidden: u64, heads: u64) -> Result<u64> {
        let keys = self.keys;
        let key = keys.count("attention.key_length")?;
        if let (Some(key), Some(value)) = (key, keys.count("attention.value_length")?)
            && key != value
        {
            return Err(Error::ModelLoading(format!(
                "\"{}\" is {key} and \"{}\" {value}, expected the same",
                keys.full("attention.key_length"),
                keys.full("attention.value_length")
            )));
        }
        match key.or_else(|| hidden.checked_div(heads)) {
            Some(size) if size > 0 => Ok(size),
            _ => Err(Error::ModelLoading(format!(
                "\"{}\" is {heads}, which gives heads without numbers",
                keys.full("attention.head_count")
            ))),
        }
    }
}
