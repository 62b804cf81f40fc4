//! How the checkpoints of an architecture differ from its parameters.

use mlx_rs::Array;

use crate::nn;
use crate::params::Tensors;

/// Parameters with their names.
pub(super) type NamedTensors = Vec<(String, Array)>;

/// Mapping between the parameters of an architecture and the tensors of its checkpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct CheckpointLayout {
    /// Maps a tensor of a checkpoint to parameters.
    pub(super) map_weight: fn(&str, Array) -> nn::Result<NamedTensors>,
    /// Maps all parameters to the tensors of a checkpoint.
    pub(super) export: fn(Tensors) -> nn::Result<Tensors>,
    /// mlx-lm's name of a layer, and its index if mlx-lm stacks experts.
    pub(super) mlx_name: fn(&str) -> (String, Option<usize>),
}

impl Default for CheckpointLayout {
    fn default() -> Self {
        Self {
            map_weight: |name, tensor| Ok(vec![(name.to_owned(), tensor)]),
            export: Ok,
            mlx_name: |path| (path.to_owned(), None),
        }
    }
}
