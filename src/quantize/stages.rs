//! The order in which the layers of a block are computed.

use std::collections::BTreeSet;

use crate::Result;
use crate::calibrate::{BlockStream, Input};
use crate::models::Model;
use crate::progress::Observer;

/// Groups the layers at `paths` into stages: those that read the same input, and the same layers of all experts,
/// belong together, in the order in which `stream` reaches them.
///
/// # Errors
/// Errors of [`BlockStream::observe`].
pub(super) fn stages(
    stream: &BlockStream,
    model: &mut Model,
    paths: &[String],
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<String>>> {
    let roles: Vec<String> = paths.iter().map(|path| role(path)).collect();
    let mut order: Vec<BTreeSet<&str>> = Vec::new();
    let mut see = |Input { layers, .. }: Input| {
        let found: BTreeSet<&str> = layers.iter().map(|&layer| roles[layer].as_str()).collect();
        if order.iter().all(|stage| stage.is_disjoint(&found)) {
            order.push(found);
        }
        Ok(())
    };
    stream.first_batch().observe(model, paths, observer, &mut see)?;
    let mut stages: Vec<Vec<String>> = vec![Vec::new(); order.len() + 1];
    for (path, role) in paths.iter().zip(&roles) {
        let stage = order.iter().position(|stage| stage.contains(role.as_str()));
        stages[stage.unwrap_or(order.len())].push(path.clone());
    }
    stages.retain(|stage| !stage.is_empty());
    Ok(stages)
}

/// The key path without the number of the expert.
fn role(path: &str) -> String {
    let parts = path.split('.').scan(false, |after_experts, part| {
        let number = std::mem::replace(after_experts, part == "experts");
        Some(if number { "*" } else { part })
    });
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_have_the_same_role() {
        assert_eq!(role("model.layers.3.mlp.experts.17.w1"), "model.layers.3.mlp.experts.*.w1");
        assert_eq!(role("model.layers.3.self_attn.q_proj"), "model.layers.3.self_attn.q_proj");
    }
}
