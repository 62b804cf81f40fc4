//! Which tensor of a file has which type, as llama.cpp decides it (`llama-quant.cpp`).

use super::file_type::FileType;
use crate::io::gguf::TensorType;

/// What the choice of a type depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    /// Type of the file.
    pub(super) file: FileType,
    /// Number of layers.
    pub(super) layers: usize,
    /// Whether the embeddings are the output head.
    pub(super) is_tied: bool,
    /// Whether the importance of columns is known.
    pub(super) is_calibrated: bool,
}

/// Whether the tensor `name` may have another type than F32.
pub(super) fn is_matrix(name: &str, dimensions: usize) -> bool {
    dimensions > 1
        && name.ends_with(".weight")
        && !name.ends_with("_norm.weight")
        && !name.contains("shortconv.conv.")
}

/// The type of the matrix `name` with rows of `columns` numbers; `base` is that of most matrices.
pub(super) fn choose(model: Model, base: TensorType, name: &str, columns: usize) -> TensorType {
    if !base.is_quantized() {
        return base;
    }
    let is_head = name == "output.weight" || (model.is_tied && name == "token_embd.weight");
    let wanted = match () {
        () if is_head && !columns.is_multiple_of(base.block_size()) => TensorType::Q8_0,
        () if is_head && base != TensorType::Q8_0 => TensorType::Q6_K,
        () => in_layer(model, base, name),
    };
    fallback(wanted, columns)
}

/// The type of a matrix of a layer; those that read or write what all later layers see may have more bits.
fn in_layer(Model { file, layers, is_calibrated, .. }: Model, base: TensorType, name: &str) -> TensorType {
    let Some((layer, part)) = split(name) else { return base };
    let is_mixture = matches!(file, FileType::Q4_K_M | FileType::Q5_K_M);
    let deserves_more = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
    match (part, file) {
        ("attn_v.weight" | "attn_qkv.weight" | "ffn_down.weight", _) if is_mixture && deserves_more => {
            TensorType::Q6_K
        }
        // With importance, the rounding of the first layers may go astray where zero has to be a code.
        ("ffn_down.weight", FileType::Q4_0) if is_calibrated && layer < layers / 8 => TensorType::Q4_1,
        ("ffn_down.weight", FileType::Q5_0) if is_calibrated && layer < layers / 8 => TensorType::Q5_1,
        _ => base,
    }
}

/// `blk.3.attn_v.weight` → 3 and `attn_v.weight`.
fn split(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// `wanted`, or a type of at least as many bits that fits the length of a row.
fn fallback(wanted: TensorType, columns: usize) -> TensorType {
    let fits = |kind: TensorType| columns.is_multiple_of(kind.block_size());
    let smaller = match wanted {
        kind if fits(kind) => return kind,
        TensorType::Q4_K => TensorType::Q5_0,
        TensorType::Q5_K => TensorType::Q5_1,
        TensorType::Q6_K => TensorType::Q8_0,
        _ => TensorType::F16,
    };
    if fits(smaller) { smaller } else { TensorType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Model = Model { file: FileType::Q4_K_M, layers: 32, is_tied: false, is_calibrated: false };

    fn kind(model: Model, name: &str, columns: usize) -> TensorType {
        let (base, _) = model.file.layout().unwrap();
        choose(model, base, name, columns)
    }

    #[test]
    fn a_mixture_has_more_bits_where_llama_cpp_has() {
        let more: Vec<usize> = (0..32)
            .filter(|layer| kind(MODEL, &format!("blk.{layer}.attn_v.weight"), 4096) == TensorType::Q6_K)
            .collect();
        // Those of Llama 2 7B as published.
        assert_eq!(more, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(kind(MODEL, "blk.0.ffn_down.weight", 11_008), TensorType::Q6_K);
        assert_eq!(kind(MODEL, "blk.0.attn_k.weight", 4096), TensorType::Q4_K);
        assert_eq!(kind(MODEL, "output.weight", 4096), TensorType::Q6_K);
        assert_eq!(kind(MODEL, "token_embd.weight", 4096), TensorType::Q4_K);
        assert_eq!(kind(Model { is_tied: true, ..MODEL }, "token_embd.weight", 4096), TensorType::Q6_K);
    }

    #[test]
    fn rows_that_do_not_divide_fall_back_to_more_bits() {
        // SmolLM2 135M has rows of 576.
        assert_eq!(kind(MODEL, "blk.9.attn_q.weight", 576), TensorType::Q5_0);
        assert_eq!(kind(MODEL, "blk.9.attn_v.weight", 576), TensorType::Q8_0);
        assert_eq!(kind(Model { is_tied: true, ..MODEL }, "token_embd.weight", 576), TensorType::Q8_0);
        let q5 = Model { file: FileType::Q5_K, ..MODEL };
        assert_eq!(kind(q5, "blk.9.attn_q.weight", 576), TensorType::Q5_1);
        assert_eq!(kind(q5, "blk.9.attn_q.weight", 40), TensorType::F16);
        let q8 = Model { file: FileType::Q8_0, ..MODEL };
        assert_eq!(kind(q8, "output.weight", 40), TensorType::F16);
        assert_eq!(kind(q8, "output.weight", 64), TensorType::Q8_0);
    }

    #[test]
    fn first_layers_have_a_minimum_with_importance() {
        let legacy = Model { file: FileType::Q4_0, is_calibrated: true, ..MODEL };
        assert_eq!(kind(legacy, "blk.3.ffn_down.weight", 4096), TensorType::Q4_1);
        assert_eq!(kind(legacy, "blk.4.ffn_down.weight", 4096), TensorType::Q4_0);
        let blind = Model { is_calibrated: false, ..legacy };
        assert_eq!(kind(blind, "blk.3.ffn_down.weight", 4096), TensorType::Q4_0);
    }

    #[test]
    fn vectors_and_convolutions_stay_f32() {
        assert!(is_matrix("blk.0.attn_q.weight", 2) && is_matrix("token_embd.weight", 2));
        for (name, dimensions) in
            [("blk.0.attn_q.bias", 1), ("blk.0.attn_norm.weight", 1), ("blk.0.shortconv.conv.weight", 2)]
        {
            assert!(!is_matrix(name, dimensions), "{name}");
        }
    }
}
