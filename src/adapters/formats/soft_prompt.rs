//! Soft prompts in PEFT's format: a single tensor `prompt_embeddings`, `[virtual tokens, width]`. The output
//! of a prompt encoder is stored instead of the encoder.

use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Value, json};

use super::format::CONFIG;
use super::peft;
use crate::io::atomic;
use crate::io::tensors;
use crate::models::Model;
use crate::nn::Prompt;
use crate::nn::prompt::PromptShape;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::{Error, Result};

/// Name of the tensor.
const NAME: &str = "prompt_embeddings";

/// How a soft prompt is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptKind {
    /// Input embeddings ([prompt tuning](https://arxiv.org/abs/2104.08691)).
    PromptTuning,
    /// Input embeddings computed by a prompt encoder ([p-tuning](https://arxiv.org/abs/2103.10385)).
    PTuning,
    /// Keys and values of every layer ([prefix tuning](https://arxiv.org/abs/2101.00190)).
    PrefixTuning,
}

/// All kinds.
const KINDS: [PromptKind; 3] = [PromptKind::PromptTuning, PromptKind::PTuning, PromptKind::PrefixTuning];

impl PromptKind {
    /// PEFT's `peft_type`.
    #[must_use]
    pub fn peft_type(self) -> &'static str {
        match self {
            Self::PromptTuning => "PROMPT_TUNING",
            Self::PTuning => "P_TUNING",
            Self::PrefixTuning => "PREFIX_TUNING",
        }
    }

    /// Returns the kind named by the configuration `json`, if it is one.
    pub(super) fn from_config(json: &Value) -> Option<Self> {
        KINDS.into_iter().find(|kind| json["peft_type"] == kind.peft_type())
    }

    /// Returns the shape of a soft prompt of this kind for `model`.
    ///
    /// # Errors
    /// Prefix tuning of a model with layers other than attention.
    pub fn shape(self, model: &Model) -> std::result::Result<PromptShape, String> {
        match self {
            Self::PromptTuning | Self::PTuning => Ok(model.prompt_shape()),
            Self::PrefixTuning => model.prefix_shape().ok_or_else(|| {
                "prefix tuning needs attention in every layer, but some layers of this model are convolutions: take \
                 prompt_tuning or p_tuning"
                    .to_owned()
            }),
        }
    }
}

/// A soft prompt on disk.
#[derive(Debug, Clone)]
pub struct SoftPrompt {
    /// How it was learned.
    pub kind: PromptKind,
    /// `[virtual tokens, width]`.
    pub embeddings: Array,
}

/// Fields of PEFT's `PromptLearningConfig` that are used.
#[derive(Debug, Deserialize)]
struct File {
    num_virtual_tokens: u32,
    #[serde(default)]
    num_transformer_submodules: Option<u32>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
}

/// Reads the soft prompt in `folder`, which has the configuration `json`.
pub(super) fn read(folder: &Path, kind: PromptKind, json: &Value) -> Result<SoftPrompt> {
    let broken =
        |name: &str, why: String| Error::ModelLoading(format!("{}: {why}", folder.join(name).display()));
    let file: File =
        serde_path_to_error::deserialize(json).map_err(|error| broken(CONFIG, error.to_string()))?;
    if let Some(count) = file.num_transformer_submodules.filter(|&count| count != 1) {
        let why = format!("\"num_transformer_submodules\" is {count}, expected 1: a model that only decodes");
        return Err(broken(CONFIG, why));
    }
    if file.modules_to_save.is_some_and(|modules| !modules.is_empty()) {
        return Err(broken(CONFIG, "\"modules_to_save\" is not supported beside virtual tokens".into()));
    }
    peft::refuse_pickles(folder)?;
    let mut loaded = tensors::read(&folder.join(peft::TENSORS))?;
    let Some(embeddings) = loaded.remove(NAME) else {
        return Err(broken(peft::TENSORS, format!("there is no tensor \"{NAME}\"")));
    };
    if let Some(name) = loaded.keys().next() {
        return Err(broken(peft::TENSORS, format!("unexpected tensor \"{name}\" beside \"{NAME}\"")));
    }
    let shape = embeddings.shape();
    if !is_float(embeddings.dtype()) || shape.len() != 2 || shape.contains(&0) {
        let why = format!(
            "\"{NAME}\" is {:?} {shape:?}, expected floating-point numbers of shape [virtual tokens, width]",
            embeddings.dtype()
        );
        return Err(broken(peft::TENSORS, why));
    }
    if i64::from(shape[0]) != i64::from(file.num_virtual_tokens) {
        let why = format!(
            "\"{NAME}\" has {} rows, but {CONFIG} says \"num_virtual_tokens\": {}",
            shape[0], file.num_virtual_tokens
        );
        return Err(broken(peft::TENSORS, why));
    }
    Ok(SoftPrompt { kind, embeddings })
}

impl SoftPrompt {
    /// Attaches the soft prompt to `model`.
    ///
    /// # Errors
    /// A width that does not fit the model.
    pub(super) fn attach(&self, model: &mut Model) -> std::result::Result<(), String> {
        let shape = self.kind.shape(model)?;
        let width = self.embeddings.dim(1);
        if shape.width() != Some(width) {
            let expected = shape.width().unwrap_or(i32::MAX);
            return Err(format!("\"{NAME}\" has {width} numbers per virtual token, expected {expected}"));
        }
        let embeddings = self.embeddings.as_dtype(Dtype::Float32).map_err(|error| error.to_string())?;
        *model.prompt_mut() = Some(Prompt::new(embeddings, shape));
        Ok(())
    }

    /// Writes the soft prompt to `folder`; `base_model` is the model it was learned for. The configuration is
    /// written last.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn write(&self, folder: &Path, shape: PromptShape, base_model: &str) -> Result<()> {
        let tensors: Tensors = [(NAME.to_owned(), self.embeddings.clone())].into();
        tensors::write(&folder.join(peft::TENSORS), &tensors, &[("format", "pt")])?;
        let mut config = json!({
            "peft_type": self.kind.peft_type(),
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "revision": null,
            "inference_mode": true,
            "num_virtual_tokens": self.embeddings.dim(0),
            "token_dim": shape.token_dim(),
            "num_transformer_submodules": 1,
            "num_attention_heads": null,
            "num_layers": null,
            "auto_mapping": null,
        });
        if let PromptShape::KeyValues { layers, kv_heads, .. } = shape {
            (config["num_layers"], config["num_attention_heads"]) = (layers.into(), kv_heads.into());
        }
        let more = match self.kind {
            PromptKind::PromptTuning => json!({
                "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": null, "tokenizer_name_or_path": null,
            }),
            PromptKind::PTuning => json!({
                "encoder_reparameterization_type": "MLP", "encoder_hidden_size": shape.token_dim(),
                "encoder_num_layers": 2, "encoder_dropout": 0.0,
            }),
            // What a projection has computed is a prefix like any other.
            PromptKind::PrefixTuning => json!({"encoder_hidden_size": null, "prefix_projection": false}),
        };
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        atomic::write_text(&folder.join(CONFIG), &format!("{config:#}\n"))
    }
}
