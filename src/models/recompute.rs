//! Gradient checkpointing ([Chen et al.](https://arxiv.org/abs/1604.06174)) of blocks.

use std::collections::BTreeSet;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::ModuleParameters;

use super::block::Block;
use crate::kernels::checkpoint::checkpoint;
use crate::nn::{self, Context, Residual, Segments};

/// Applies `blocks`, the first of which has index `first`, with gradient checkpointing: only `x` is kept for
/// the gradients of `x` and of the parameters `trained`.
///
/// # Errors
/// Incompatible shapes; a name in `trained` that no block has.
pub(super) fn recompute_blocks<B: Block>(
    x: Residual,
    segments: Option<&Segments>,
    blocks: &[B],
    first: usize,
    trained: &BTreeSet<String>,
) -> nn::Result<Residual> {
    let paths = (0..blocks.len()).map(|i| format!("model.layers.{}.", first + i)).collect();
    let segments = segments.cloned();
    let outputs = recompute(x.into_parts(), blocks, paths, trained, move |blocks, parts| {
        let mut x = Residual::from_parts(parts).ok_or_else(missing_input)?;
        for block in blocks {
            block.forward(&mut x, segments.as_ref().map_or(Context::Whole, Context::Segmented))?;
        }
        Ok(x.into_parts())
    })?;
    Residual::from_parts(&outputs).ok_or_else(missing_input)
}

/// Calls `apply` with `blocks` and `inputs`; only the latter are kept for their gradients and those of the parameters
/// `trained`. `paths` are what names of parameters start with, for each block.
///
/// # Errors
/// Those of `apply`; a name in `trained` that no block has.
pub(super) fn recompute<M: ModuleParameters + Clone + Send + 'static>(
    mut inputs: Vec<Array>,
    blocks: &[M],
    paths: Vec<String>,
    trained: &BTreeSet<String>,
    apply: impl Fn(&[M], &[Array]) -> nn::Result<Vec<Array>> + Send + 'static,
) -> nn::Result<Vec<Array>> {
    let streams = inputs.len();
    // Names of the trained parameters of each block; their values follow the inputs in this order.
    let mut names: Vec<Vec<String>> = Vec::with_capacity(blocks.len());
    for (block, path) in blocks.iter().zip(paths) {
        let parameters = block.parameters().flatten();
        let of_block =
            trained.iter().filter_map(|name| name.strip_prefix(&path)).map(str::to_owned).collect::<Vec<_>>();
        for name in &of_block {
            inputs.push((*parameters.get(name.as_str()).ok_or_else(missing_input)?).clone());
        }
        names.push(of_block);
    }
    let blocks = blocks.to_vec();
    checkpoint(&inputs, move |inputs| {
        let mut blocks = blocks.clone();
        let (parts, mut values) = inputs.split_at(streams);
        for (block, names) in blocks.iter_mut().zip(&names) {
            let mut parameters = block.parameters_mut().flatten();
            for name in names {
                let (Some((value, rest)), Some(slot)) =
                    (values.split_first(), parameters.get_mut(name.as_str()))
                else {
                    return Err(missing_input());
                };
                **slot = value.clone();
                values = rest;
            }
        }
        apply(&blocks, parts)
    })
}

fn missing_input() -> Exception {
    Exception::custom("a checkpointed block lacks an input")
}
