//! Key paths of layers and names of adapter parameters.

use crate::Result;
use crate::nn::Network;

/// Prefix of the parameters of a [soft prompt](crate::nn::prompt).
const PROMPT: &str = "prompt.";

/// Returns the key paths of all layers that can be adapted, in order.
///
/// # Errors
/// Only those of [`Network::visit_linears`].
pub fn layer_names(model: &mut dyn Network) -> Result<Vec<String>> {
    let mut names = Vec::new();
    model.visit_linears(&mut |path, _| {
        names.push(path.to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// Whether the parameter `name` belongs to an adapter.
#[must_use]
pub fn is_adapter_parameter(name: &str) -> bool {
    name.starts_with(PROMPT)
        || [".lora_a", ".lora_b", ".lora_e", ".m"].iter().any(|slot| name.ends_with(slot))
}

/// Whether `model` has a soft prompt.
pub(super) fn has_prompt(model: &dyn Network) -> bool {
    model.parameters().flatten().keys().any(|name| name.starts_with(PROMPT))
}

/// Whether `end` equals `path` or its trailing parts.
pub(super) fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// Splits a key path into the index of its block and the rest: `model.layers.3.self_attn.q_proj` → `(3,
/// "self_attn.q_proj")`.
pub(crate) fn split_block(path: &str) -> Option<(usize, &str)> {
    let (_, rest) = path.split_once("layers.")?;
    let (block, name) = rest.split_once('.')?;
    Some((block.parse().ok()?, name))
}

/// Number of blocks of a network with layers at `paths`.
pub(super) fn num_blocks(paths: &[String]) -> usize {
    paths.iter().filter_map(|path| Some(split_block(path)?.0 + 1)).max().unwrap_or(0)
}
