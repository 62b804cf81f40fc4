//! LayerSelection of layers and of their parameters.

use crate::Result;
use crate::nn::Network;

/// The beginning of the names of [virtual tokens](crate::nn::prompt).
const PROMPT: &str = "prompt.";

/// Key paths of every layer that an adapter may sit on, in order.
///
/// # Errors
/// None of its own.
pub fn layer_names(model: &mut dyn Network) -> Result<Vec<String>> {
    let mut names = Vec::new();
    model.visit_linears(&mut |path, _| {
        names.push(path.to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// Whether a parameter belongs to an adapter.
#[must_use]
pub fn is_adapter_parameter(name: &str) -> bool {
    name.starts_with(PROMPT)
        || [".lora_a", ".lora_b", ".lora_e", ".m"].iter().any(|slot| name.ends_with(slot))
}

/// Whether `model` reads virtual tokens before every text.
pub(super) fn has_prompt(model: &dyn Network) -> bool {
    model.parameters().flatten().keys().any(|name| name.starts_with(PROMPT))
}

/// `model.layers.3.self_attn.q_proj` → `(3, "self_attn.q_proj")`
pub(crate) fn split_block(path: &str) -> Option<(usize, &str)> {
    let (_, rest) = path.split_once("layers.")?;
    let (block, name) = rest.split_once('.')?;
    Some((block.parse().ok()?, name))
}

/// Number of blocks that the layers at `paths` belong to.
pub(super) fn num_blocks(paths: &[String]) -> usize {
    paths.iter().filter_map(|path| Some(split_block(path)?.0 + 1)).max().unwrap_or(0)
}
