//! Checkpoints of [`open_clip`](https://github.com/mlfoundations/open_clip): their files and the names of tensors.

use std::collections::BTreeSet;
use std::path::Path;

use mlx_rs::Array;

use super::layout;
use crate::nn;
use crate::params::Tensors;

/// The configuration of a folder.
pub const CONFIG: &str = "open_clip_config.json";

/// The file of weights that is written.
pub use crate::io::shards::OPEN_CLIP_FILE as FILE;

/// Parts whose names differ: of `open_clip` and of Hugging Face.
const NAMES: [(&str, &str); 10] = [
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", layout::PATCHES),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final", "text_model.final_layer_norm"),
];

/// Matrices that are stored transposed.
const TRANSPOSED: [(&str, &str); 2] =
    [("visual.proj", "visual_projection.weight"), ("text_projection", "text_projection.weight")];

/// Blocks of both towers.
const BLOCKS: [(&str, &str); 2] = [
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
];

/// Layers of a block.
const LAYERS: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// Whether `folder` is a checkpoint of `open_clip`, and none of Hugging Face.
#[must_use]
pub fn is_folder(folder: &Path) -> bool {
    folder.join(CONFIG).is_file() && !folder.join("config.json").is_file()
}

/// Maps a tensor of `open_clip` to parameters; `None` for a name that it does not have.
///
/// # Errors
/// A tensor of an unexpected shape.
pub(super) fn map_weight(name: &str, tensor: &Array) -> nn::Result<Option<Vec<(String, Array)>>> {
    // Some of its classes keep the text tower apart.
    let name = name.strip_prefix("text.").unwrap_or(name);
    if let Some((_, ours)) = TRANSPOSED.iter().find(|(theirs, _)| *theirs == name) {
        return Ok(Some(vec![((*ours).to_owned(), tensor.swap_axes(0, 1)?)]));
    }
    for (theirs, ours) in NAMES {
        if let Some(leaf) = name.strip_prefix(theirs)
            && (leaf.is_empty() || leaf.starts_with('.'))
        {
            return layout::map_weight(&format!("{ours}{leaf}"), tensor.clone()).map(Some);
        }
    }
    for (theirs, ours) in BLOCKS {
        let Some((index, layer)) = name.strip_prefix(theirs).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let path = format!("{ours}{index}");
        if let Some(leaf) = layer.strip_prefix("attn.in_proj_") {
            return layout::split(tensor, &format!("{path}.self_attn"), leaf).map(Some);
        }
        for (theirs, ours) in LAYERS {
            if let Some(leaf) = layer.strip_prefix(theirs) {
                return Ok(Some(vec![(format!("{path}.{ours}{leaf}"), tensor.clone())]));
            }
        }
    }
    Ok(None)
}

/// Maps the tensors of a Hugging Face checkpoint of CLIP to those of `open_clip`.
///
/// # Errors
/// Errors from MLX.
pub fn export(mut parameters: Tensors) -> nn::Result<Tensors> {
    let mut tensors = Tensors::new();
    for (theirs, ours) in BLOCKS {
        let indices = parameters.keys().filter_map(|name| name.strip_prefix(ours)?.split('.').next());
        let indices: BTreeSet<String> = indices.map(str::to_owned).collect();
        for index in indices {
            for leaf in ["weight", "bias"] {
                if let Some(joined) =
                    layout::join(&mut parameters, &format!("{ours}{index}.self_attn"), leaf)?
                {
                    tensors.insert(format!("{theirs}{index}.attn.in_proj_{leaf}"), joined);
                }
            }
        }
    }
    for (name, tensor) in parameters {
        let transposed = TRANSPOSED.iter().find(|(_, ours)| *ours == name);
        if let Some((theirs, _)) = transposed {
            tensors.insert((*theirs).to_owned(), tensor.swap_axes(0, 1)?);
            continue;
        }
        tensors.insert(exported_name(&name), tensor);
    }
    Ok(tensors)
}

fn exported_name(name: &str) -> String {
    for (theirs, ours) in BLOCKS {
        let Some((index, layer)) = name.strip_prefix(ours).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        for (their_layer, our_layer) in LAYERS {
            if let Some(leaf) = layer.strip_prefix(our_layer) {
                return format!("{theirs}{index}.{their_layer}{leaf}");
            }
        }
    }
    let renamed =
        NAMES.iter().find_map(|(theirs, ours)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)));
    renamed.unwrap_or_else(|| name.to_owned())
}
