//! Which layer gets which format.

use std::collections::{BTreeMap, BTreeSet};

use super::config::QuantizeConfig;
use super::format::describe;
use crate::kernels::quantized::Format;
use crate::models::{Model, is_router};
use crate::rng::digest;
use crate::{Error, Result};

/// The format of each quantized layer, by key path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub formats: BTreeMap<String, Format>,
    /// Key paths in the order of the model.
    pub order: Vec<String>,
    /// Key paths of layers whose format a pattern states.
    pub fixed: BTreeSet<String>,
}

impl Plan {
    /// Plans formats for the layers of `model`. Routers stay dense unless a pattern ends with their
    /// name.
    ///
    /// # Errors
    /// A pattern that no layer matches; rows that are not whole groups; a layer that is quantized already; nothing to
    /// quantize.
    pub(super) fn new(model: &mut Model, config: &QuantizeConfig) -> Result<Self> {
        let (default, embedding) = (config.format()?, config.embedding_format()?);
        let patterns = config.layer_formats()?;
        let blocks: Vec<String> = (0..model.block_count()).map(|i| model.block_path(i) + ".").collect();
        let (mut used, mut chosen) = (vec![false; patterns.len()], Vec::new());
        let (mut formats, mut order, mut fixed) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        model.visit_quantizable(&mut |path, weight| {
            let in_block = blocks.iter().any(|block| path.starts_with(block.as_str()));
            let mut format = match in_block {
                true if is_router(path) => None,
                true => Some(default),
                false => Some(embedding),
            };
            for ((pattern, theirs), used) in patterns.iter().zip(&mut used) {
                // A router must be meant.
                if pattern.matches(path) && (!is_router(path) || is_router(pattern.as_str())) {
                    (format, *used) = (*theirs, true);
                    fixed.insert(path.to_owned());
                }
            }
            if weight.format.is_some() {
                return Err(Error::Config(format!(
                    "{path} is quantized already: choose the original model, or set dequantize (--dequantize)"
                )));
            }
            chosen.push((path.to_owned(), format, fixed.contains(path)));
            let Some(format) = format else { return Ok(()) };
            let (columns, group) = (weight.weight.dim(1), format.row_multiple());
            if !(columns as usize).is_multiple_of(group) {
                return Err(Error::Config(format!(
                    "group_size: the rows of {path} have {columns} weights, which is not a multiple of {group}; choose \
                     another group size, or leave it out with --layer '{path}=dense'"
                )));
            }
            order.push(path.to_owned());
            formats.insert(path.to_owned(), format);
            Ok(())
        })?;
        if let Some(((pattern, _), _)) = patterns.iter().zip(&used).find(|(_, used)| !**used) {
            return Err(Error::Config(format!("layers: no layer matches \"{pattern}\"")));
        }
        check_stacks(model, &chosen)?;
        if formats.is_empty() {
            return Err(Error::Config("every layer is left dense: there is nothing to quantize".into()));
        }
        Ok(Self { formats, order, fixed })
    }

    /// Key paths of the quantized layers of the block at `block`.
    pub(super) fn layers_of(&self, block: &str) -> Vec<String> {
        let prefix = format!("{block}.");
        self.order.iter().filter(|path| path.starts_with(&prefix)).cloned().collect()
    }

    /// A hash of the formats of all layers.
    pub(super) fn fingerprint(&self) -> String {
        let text = self.formats.iter().map(|(path, format)| format!("{path} {}\n", describe(*format)));
        let bytes: Vec<u8> = text.flat_map(String::into_bytes).collect();
        format!("{:016x}", digest(bytes.into_iter().map(u64::from)))
    }

    /// Place of the layer at `path` in the order of the model.
    pub(super) fn position(&self, path: &str) -> usize {
        self.order.iter().position(|planned| planned == path).unwrap_or(self.order.len())
    }
}

/// Checks that experts that a checkpoint stacks have one format, and that it is fixed for all of them or for none. `chosen`
/// are key paths with their formats and whether a pattern fixes them.
fn check_stacks(model: &Model, chosen: &[(String, Option<Format>, bool)]) -> Result<()> {
    let mut stacks: BTreeMap<String, (Option<Format>, bool)> = BTreeMap::new();
    for (path, format, is_fixed) in chosen {
        let (stack, Some(_)) = model.mlx_name(path) else { continue };
        let choice = (*format, *is_fixed);
        if *stacks.entry(stack.clone()).or_insert(choice) != choice {
            return Err(Error::Config(format!(
                "layers: {path} has another format than other experts, but they are stored together, as {stack}: use a \
                 pattern that matches all of them, with * for the number of the expert"
            )));
        }
    }
    Ok(())
}
