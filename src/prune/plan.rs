//! Which layers are pruned, and by how much.

use std::collections::BTreeMap;

use super::config::PruneConfig;
use crate::models::{Model, is_router};
use crate::{Error, Result};

/// The layers to prune, by key path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// Key paths in the order of the model.
    pub order: Vec<String>,
    /// Fraction of the weights of each layer that go.
    pub sparsity: BTreeMap<String, f64>,
}

impl Plan {
    /// Plans the same sparsity for all linear layers of the blocks of `model` but routers and those that `config` skips.
    /// Embeddings and output head stay as they are.
    ///
    /// # Errors
    /// A pattern that no layer matches; rows that are not whole groups; a quantized layer; nothing to prune.
    pub(super) fn new(model: &mut Model, config: &PruneConfig) -> Result<Self> {
        let compile = |text: &String| {
            glob::Pattern::new(text).map_err(|error| Error::Config(format!("skip: {text}: {error}")))
        };
        let skipped = config.skip.iter().map(compile).collect::<Result<Vec<_>>>()?;
        let blocks: Vec<String> = (0..model.block_count()).map(|i| model.block_path(i) + ".").collect();
        let mut used = vec![false; skipped.len()];
        let mut order = Vec::new();
        model.visit_linears(&mut |path, layer| {
            if !blocks.iter().any(|block| path.starts_with(block.as_str())) {
                return Ok(());
            }
            let mut skip = is_router(path);
            for (pattern, used) in skipped.iter().zip(&mut used) {
                if pattern.matches(path) {
                    (skip, *used) = (true, true);
                }
            }
            if skip {
                return Ok(());
            }
            let weight = layer.weight_mut();
            if weight.format.is_some() {
                return Err(Error::Config(format!(
                    "{path} is quantized: prune the original model, and quantize the result"
                )));
            }
            config.pattern.check(path, weight.weight.dim(1) as usize)?;
            order.push(path.to_owned());
            Ok(())
        })?;
        if let Some((pattern, _)) = skipped.iter().zip(&used).find(|(_, used)| !**used) {
            return Err(Error::Config(format!("skip: no layer matches \"{pattern}\"")));
        }
        if order.is_empty() {
            return Err(Error::Config("every layer is skipped: there is nothing to prune".into()));
        }
        let sparsity = order.iter().map(|path| (path.clone(), config.sparsity())).collect();
        Ok(Self { order, sparsity })
    }

    /// Key paths of the pruned layers of the block at `block`.
    pub(super) fn layers_of(&self, block: &str) -> Vec<String> {
        let prefix = format!("{block}.");
        self.order.iter().filter(|path| path.starts_with(&prefix)).cloned().collect()
    }

    /// Sets the sparsity of the layers of the block at `block`.
    pub(super) fn set_block(&mut self, block: &str, sparsity: f64) {
        for path in self.layers_of(block) {
            self.sparsity.insert(path, sparsity);
        }
    }
}
