//! How Hugging Face's checkpoints store what parameters here have another shape for.

use mlx_rs::Array;
use mlx_rs::ops::concatenate;

use crate::nn;
use crate::params::Tensors;

/// The patch embedding, `[out, in, height, width]` in checkpoints.
pub(super) const PATCHES: &str = "vision_model.embeddings.patch_embedding.weight";

/// Pooling by attention, whose projections are one matrix in checkpoints.
const POOLING: &str = "vision_model.head.attention";

const PROJECTIONS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Maps a tensor to parameters.
///
/// # Errors
/// A tensor of an unexpected shape.
pub(super) fn map_weight(name: &str, tensor: Array) -> nn::Result<Vec<(String, Array)>> {
    match name {
        "logit_scale" | "logit_bias" if tensor.size() == 1 => {
            Ok(vec![(name.to_owned(), tensor.reshape(&[])?)])
        }
        // MLX's own checkpoints have the channels last.
        PATCHES if tensor.ndim() == 4 && (tensor.dim(1) == 3 || tensor.dim(3) != 3) => {
            Ok(vec![(name.to_owned(), tensor.transpose_axes(&[0, 2, 3, 1])?)])
        }
        _ => match name.strip_prefix(POOLING).map(|leaf| leaf.trim_start_matches('.')) {
            Some("in_proj_weight") => split(&tensor, POOLING, "weight"),
            Some("in_proj_bias") => split(&tensor, POOLING, "bias"),
            _ => Ok(vec![(name.to_owned(), tensor)]),
        },
    }
}

/// The query, key and value parts of `tensor`, as parameters of the layers at `path`.
///
/// # Errors
/// A number of rows that is no multiple of three.
pub(super) fn split(tensor: &Array, path: &str, leaf: &str) -> nn::Result<Vec<(String, Array)>> {
    let parts = tensor.split_equal(3, 0)?;
    Ok(PROJECTIONS.iter().zip(parts).map(|(name, part)| (format!("{path}.{name}.{leaf}"), part)).collect())
}

/// Joins the query, key and value parts of the layers at `path`, if `parameters` has them.
///
/// # Errors
/// Errors from MLX.
pub(super) fn join(parameters: &mut Tensors, path: &str, leaf: &str) -> nn::Result<Option<Array>> {
    let mut parts = Vec::with_capacity(PROJECTIONS.len());
    for name in PROJECTIONS {
        parts.extend(parameters.remove(&format!("{path}.{name}.{leaf}")));
    }
    if parts.is_empty() { Ok(None) } else { concatenate(&parts, 0).map(Some) }
}

/// Maps all parameters to tensors of Hugging Face's checkpoints.
///
/// # Errors
/// Errors from MLX.
pub(super) fn export(mut parameters: Tensors) -> nn::Result<Tensors> {
    if let Some(patches) = parameters.get_mut(PATCHES) {
        *patches = patches.transpose_axes(&[0, 3, 1, 2])?;
    }
    for leaf in ["weight", "bias"] {
        if let Some(joined) = join(&mut parameters, POOLING, leaf)? {
            parameters.insert(format!("{POOLING}.in_proj_{leaf}"), joined);
        }
    }
    // SigLIP stores scalars as vectors.
    if parameters.contains_key("logit_bias") {
        for name in ["logit_scale", "logit_bias"] {
            if let Some(scalar) = parameters.get_mut(name) {
                *scalar = scalar.reshape(&[1])?;
            }
        }
    }
    Ok(parameters)
}
