//! Formats of quantization-aware training.

use std::collections::BTreeMap;

use super::config::TrainingConfig;
use crate::kernels::quantized::Format;
use crate::models::{Model, is_router};
use crate::train::text::quantization_aware::FakeQuantization;
use crate::{Error, Result};

/// Prepares the rounding that `config` asks for while the parameters called `trained` are trained; `None` without
/// `qat_bits`. Routers stay dense.
///
/// # Errors
/// A model that is quantized already; rows that are not whole groups.
pub(super) fn prepare(
    model: &mut Model,
    config: &TrainingConfig,
    trained: &[String],
) -> Result<Option<FakeQuantization>> {
    let Some(bits) = config.qat_bits else { return Ok(None) };
    let affine = |bits: u32| {
        Format::affine(bits as usize, config.qat_group_size as usize)
            .map_err(|error| Error::Config(error.what().to_owned()))
    };
    let (default, embedding) = (affine(bits)?, affine(config.qat_embedding_bits)?);
    let blocks: Vec<String> = (0..model.block_count()).map(|i| model.block_path(i) + ".").collect();
    let mut formats = BTreeMap::new();
    model.visit_quantizable(&mut |path, weight| {
        if weight.format.is_some() {
            return Err(Error::Config(format!("qat_bits: {path} is quantized already; load a dense model")));
        }
        if is_router(path) {
            return Ok(());
        }
        let (columns, group) = (weight.weight.dim(1), default.group_size());
        if !(columns as usize).is_multiple_of(group) {
            return Err(Error::Config(format!(
                "qat_group_size: the rows of {path} have {columns} weights, which is not a multiple of {group}"
            )));
        }
        let in_block = blocks.iter().any(|block| path.starts_with(block.as_str()));
        formats.insert(path.to_owned(), if in_block { default } else { embedding });
        Ok(())
    })?;
    FakeQuantization::new(model, formats, trained).map(Some)
}
