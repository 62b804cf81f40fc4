//! What the format calls the parts of each architecture, and what transformers calls them. One table serves both
//! directions.
//!
//! | architecture | differs from transformers in |
//! |---|---|
//! | `llama`, `smollm3` | rows of queries and keys: the two halves of a head alternate, see [`stored_row`] |
//! | `gemma2`, `gemma3` | norms have one added |
//! | `lfm2` | convolutions are `[hidden, taps]`, without the dimension of one in between |
//!
//! Source: `convert_hf_to_gguf.py` of llama.cpp.

mod formats;
mod keys;
mod read;
mod rope;
mod write;

pub use formats::footprint;
pub use read::{architecture, config};
pub use rope::FACTORS;
pub use write::{Description, metadata};

/// An architecture with its names.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type`s with this architecture, that of files without further knowledge first.
    pub model_types: &'static [&'static str],
    /// Class of transformers.
    class: &'static str,
    /// Key of the epsilon of norms in `config.json`.
    epsilon: &'static str,
    /// Parts outside of layers: here and there.
    parts: &'static [(&'static str, &'static str)],
    /// Parts of a layer: here and there.
    layer_parts: &'static [(&'static str, &'static str)],
    is_interleaved: bool,
    has_shifted_norms: bool,
}

/// How the numbers of a tensor differ from those of the parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// Rows are those of [`stored_row`], with this many heads.
    Interleaved(Heads),
    /// One is added.
    Shifted,
    /// The parameter has a second dimension of one.
    Squeezed,
}

impl Change {
    /// Whether only numbers can be changed so, not codes.
    #[must_use]
    pub const fn needs_numbers(self) -> bool {
        matches!(self, Self::Shifted | Self::Squeezed)
    }
}

/// Which number of heads a matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// That of queries.
    Query,
    /// That of keys and values.
    Key,
}

const OUTER: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const LLAMA: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const QWEN3: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GEMMA: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const PHI3: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const LFM2: &[(&str, &str)] = &[
    ("attn_norm", "operator_norm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_norm", "self_attn.q_layernorm"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_k_norm", "self_attn.k_layernorm"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.out_proj"),
    ("shortconv.conv", CONVOLUTION),
    ("shortconv.in_proj", "conv.in_proj"),
    ("shortconv.out_proj", "conv.out_proj"),
    ("ffn_norm", "ffn_norm"),
    ("ffn_gate", "feed_forward.w1"),
    ("ffn_up", "feed_forward.w3"),
    ("ffn_down", "feed_forward.w2"),
];

const LFM2_OUTER: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("token_embd_norm", "model.embedding_norm"),
    ("output", "lm_head"),
];

const CONVOLUTION: &str = "conv.conv";

/// Layers that follow this prefix and their number.
const LAYERS: (&str, &str) = ("blk.", "model.layers.");

const BASE: Architecture = Architecture {
    name: "llama",
    model_types: &["llama", "mistral"],
    class: "LlamaForCausalLM",
    epsilon: "rms_norm_eps",
    parts: OUTER,
    layer_parts: LLAMA,
    is_interleaved: true,
    has_shifted_norms: false,
};

/// All architectures that are read and written.
pub static ARCHITECTURES: [Architecture; 8] = [
    BASE,
    Architecture {
        name: "qwen2",
        model_types: &["qwen2"],
        class: "Qwen2ForCausalLM",
        is_interleaved: false,
        ..BASE
    },
    Architecture {
        name: "qwen3",
        model_types: &["qwen3"],
        class: "Qwen3ForCausalLM",
        layer_parts: QWEN3,
        is_interleaved: false,
        ..BASE
    },
    Architecture {
        name: "gemma2",
        model_types: &["gemma2"],
        class: "Gemma2ForCausalLM",
        layer_parts: GEMMA,
        is_interleaved: false,
        has_shifted_norms: true,
        ..BASE
    },
    Architecture {
        name: "gemma3",
        model_types: &["gemma3_text"],
        class: "Gemma3ForCausalLM",
        layer_parts: GEMMA,
        is_interleaved: false,
        has_shifted_norms: true,
        ..BASE
    },
    Architecture {
        name: "phi3",
        model_types: &["phi3"],
        class: "Phi3ForCausalLM",
        layer_parts: PHI3,
        is_interleaved: false,
        ..BASE
    },
    Architecture {
        name: "lfm2",
        model_types: &["lfm2"],
        class: "Lfm2ForCausalLM",
        epsilon: "norm_eps",
        parts: LFM2_OUTER,
        layer_parts: LFM2,
        is_interleaved: false,
        ..BASE
    },
    Architecture { name: "smollm3", model_types: &["smollm3"], class: "SmolLM3ForCausalLM", ..BASE },
];

impl Architecture {
    /// The architecture of a file whose `general.architecture` is `name`.
    #[must_use]
    pub fn of_file(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name)
    }

    /// The architecture of a model with this `model_type`.
    #[must_use]
    pub fn of_model(model_type: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.model_types.contains(&model_type))
    }

    /// Names of all architectures, for messages.
    #[must_use]
    pub fn supported() -> String {
        ARCHITECTURES.each_ref().map(|architecture| architecture.name).join(", ")
    }

    /// Name in a model of the tensor `name`: `blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`.
    #[must_use]
    pub fn parameter_name(&self, name: &str) -> Option<String> {
        self.translate(name, LAYERS, |&(here, there)| (here, there))
    }

    /// Name in a file of the parameter `name`, as transformers calls it.
    #[must_use]
    pub fn tensor_name(&self, name: &str) -> Option<String> {
        self.translate(name, (LAYERS.1, LAYERS.0), |&(here, there)| (there, here))
    }

    fn translate(
        &self,
        name: &str,
        layers: (&str, &str),
        pair: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> Option<String> {
        let (part, leaf) = name.rsplit_once('.')?;
        let find = |table: &[(&'static str, &'static str)], part: &str| {
            table.iter().map(&pair).find(|(from, _)| *from == part).map(|(_, to)| to)
        };
        let Some(inner) = part.strip_prefix(layers.0) else {
            return Some(format!("{}.{leaf}", find(self.parts, part)?));
        };
        let (index, part) = inner.split_once('.')?;
        // One spelling for each layer.
        let number: u32 = index.parse().ok().filter(|number: &u32| number.to_string() == index)?;
        Some(format!("{}{number}.{}.{leaf}", layers.1, find(self.layer_parts, part)?))
    }

    /// How the tensor of `parameter`, as transformers calls it, differs from it.
    #[must_use]
    pub fn change(&self, parameter: &str) -> Change {
        let part = parameter.rsplit_once('.').map_or("", |(part, _)| part);
        if self.is_interleaved && part.ends_with(".q_proj") {
            Change::Interleaved(Heads::Query)
        } else if self.is_interleaved && part.ends_with(".k_proj") {
            Change::Interleaved(Heads::Key)
        } else if self.has_shifted_norms && parameter.ends_with("norm.weight") {
            Change::Shifted
        } else if part.ends_with(CONVOLUTION) && parameter.ends_with(".weight") {
            Change::Squeezed
        } else {
            Change::None
        }
    }
}

/// The stored row of row number `row` of queries or keys with heads of `head_dim` rows: a head is stored as the pairs
/// that are rotated together, where transformers has the first of all pairs, then the second.
#[must_use]
pub const fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, inside) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (inside % half) + inside / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (architecture, here, there) in [
            ("llama", "blk.11.attn_q.bias", "model.layers.11.self_attn.q_proj.bias"),
            ("llama", "output.weight", "lm_head.weight"),
            ("gemma3", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
            ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
            ("lfm2", "blk.0.shortconv.conv.weight", "model.layers.0.conv.conv.weight"),
            ("lfm2", "token_embd_norm.weight", "model.embedding_norm.weight"),
        ] {
            let architecture = Architecture::of_file(architecture).unwrap();
            assert_eq!(architecture.parameter_name(here).as_deref(), Some(there));
            assert_eq!(architecture.tensor_name(there).as_deref(), Some(here));
        }
        let llama = Architecture::of_model("mistral").unwrap();
        for other in ["blk.01.attn_q.weight", "blk.x.attn_q.weight", "blk.0.attn_qkv.weight", "blk", ""] {
            assert_eq!(llama.parameter_name(other), None, "{other}");
        }
    }

    #[test]
    fn pairs_of_a_head_are_stored_together() {
        let stored: Vec<usize> = (0..8).map(|row| stored_row(row, 4)).collect();
        assert_eq!(stored, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn changes_are_those_of_the_architecture() {
        let change = |model: &str, name: &str| Architecture::of_model(model).unwrap().change(name);
        let query = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(change("smollm3", query), Change::Interleaved(Heads::Query));
        assert_eq!(change("qwen3", query), Change::None);
        assert_eq!(change("gemma2", "model.norm.weight"), Change::Shifted);
        assert_eq!(change("lfm2", "model.layers.0.conv.conv.weight"), Change::Squeezed);
        assert_eq!(change("lfm2", "model.layers.0.ffn_norm.weight"), Change::None);
    }
}
