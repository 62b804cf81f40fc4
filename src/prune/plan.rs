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
        let mut skipped = Skipped::new(config)?;
        let blocks: Vec<String> = (0..model.block_count()).map(|i| model.block_path(i) + ".").collect();
        let mut order = Vec::new();
        model.visit_linears(&mut |path, layer| {
            if !blocks.iter().any(|block| path.starts_with(block.as_str())) {
                return Ok(());
            }
            if skipped.matches(path) || is_router(path) {
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
        skipped.check_used()?;
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

/// Patterns of the layers that stay as they are.
#[derive(Debug)]
pub(super) struct Skipped {
    /// Each with whether it matched a layer.
    patterns: Vec<(glob::Pattern, bool)>,
}

impl Skipped {
    /// Reads the patterns of `config`.
    ///
    /// # Errors
    /// One that is not valid.
    pub(super) fn new(config: &PruneConfig) -> Result<Self> {
        let compile = |text: &String| match glob::Pattern::new(text) {
            Ok(pattern) => Ok((pattern, false)),
            Err(error) => Err(Error::Config(format!("skip: {text}: {error}"))),
        };
        Ok(Self { patterns: config.skip.iter().map(compile).collect::<Result<_>>()? })
    }

    /// Whether the layer at `path` stays as it is.
    pub(super) fn matches(&mut self, path: &str) -> bool {
        let mut matches = false;
        for (pattern, used) in &mut self.patterns {
            if pattern.matches(path) {
                (matches, *used) = (true, true);
            }
        }
        matches
    }

    /// Checks that every pattern matched a layer.
    ///
    /// # Errors
    /// One that did not.
    pub(super) fn check_used(&self) -> Result<()> {
        match self.patterns.iter().find(|(_, used)| !used) {
            Some((pattern, _)) => Err(Error::Config(format!("skip: no layer matches \"{pattern}\""))),
            None => Ok(()),
        }
    }
}
