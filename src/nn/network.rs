//! The common interface of all models: access to layers, and the mapping between parameters and the tensors
//! of a checkpoint.

use std::collections::BTreeSet;

use mlx_rs::module::ModuleParameters;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::quantized::WeightMut;
use super::{Linear, Overrides, Result};
use crate::kernels::linear::Weight;
use crate::params::Tensors;

/// Settings of gradient checkpointing.
#[derive(Debug, Clone)]
pub struct GradientCheckpointing {
    /// Blocks per checkpoint.
    pub every: usize,
    /// Names of all parameters that need a gradient.
    pub trained: BTreeSet<String>,
}

/// A model as seen by files, quantization and adapters. An implementation must list its linear layers and
/// state its dtype; the other methods have defaults.
pub trait Network: ModuleParameters + Send {
    /// Calls `visit` with the key path of every adaptable linear layer and the layer, in order.
    ///
    /// This is the only way in which algorithms access layers.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_linears(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Linear) -> crate::Result<()>,
    ) -> crate::Result<()>;

    /// Calls `visit` with the key path of every quantizable layer and its weight, in order; by default the
    /// linear layers.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_quantizable(
        &mut self,
        visit: &mut dyn FnMut(&str, WeightMut) -> crate::Result<()>,
    ) -> crate::Result<()> {
        self.visit_linears(&mut |path, layer| visit(path, layer.weight_mut()))
    }

    /// Calls `visit` with the key path of every quantizable layer and its weight, to be read; by default the linear
    /// layers. Sparse weights stay packed.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_weights(
        &mut self,
        visit: &mut dyn FnMut(&str, Weight) -> crate::Result<()>,
    ) -> crate::Result<()> {
        self.visit_linears(&mut |path, layer| visit(path, layer.matrix()))
    }

    /// Returns the number of parameters. Weights that are packed in codes count as the matrix they stand for, and their
    /// scales and biases as nothing.
    ///
    /// # Errors
    /// Codes and scales that do not fit together.
    fn count_parameters(&mut self) -> crate::Result<u64> {
        let mut count: u64 = self.parameters().flatten().values().map(|x| x.size() as u64).sum();
        self.visit_weights(&mut |_, weight| {
            let stored: u64 = match weight {
                Weight::Dense(_) => return Ok(()),
                Weight::Packed(packed) => {
                    packed.shape()?;
                    packed.operands().map(|x| x.size() as u64).sum()
                }
                Weight::Sparse(matrix) => matrix.operands().map(|x| x.size() as u64).sum(),
            };
            let (rows, columns) = weight.shape();
            count = count - stored + rows as u64 * columns as u64;
            Ok(())
        })?;
        Ok(count)
    }

    /// Makes the output head one of the layers that [`visit_linears`](Self::visit_linears) visits, or takes it away
    /// again. A head that is tied to the embeddings becomes a layer of its own, with the path `lm_head`, for that
    /// time. Returns whether there is a head.
    fn set_head_adaptable(&mut self, _adaptable: bool) -> bool {
        false
    }

    /// What the attached adapter changes besides low-rank slots; `None` if it cannot.
    fn overrides_mut(&mut self) -> Option<&mut Overrides> {
        None
    }

    /// Whether control flow of the forward pass depends on data, so that its graph cannot be reused.
    fn is_data_dependent(&self) -> bool {
        false
    }

    /// Enables gradient checkpointing: passes for a gradient keep only the inputs of every few blocks, the other activations
    /// are recomputed. `None` disables it.
    fn set_gradient_checkpointing(&mut self, checkpointing: Option<GradientCheckpointing>);

    /// Dtype of activations.
    fn dtype(&self) -> Dtype;

    /// Whether the tensor `key` of a checkpoint is computed from the configuration, and not loaded; by default none
    /// is.
    fn computes(&self, _key: &str) -> bool {
        false
    }

    /// Whether the stored `tensor` is, up to rounding, what is [computed](Self::computes) in its place.
    ///
    /// # Errors
    /// Errors from MLX.
    fn agrees(&self, _key: &str, _tensor: &Array) -> Result<bool> {
        Ok(true)
    }

    /// Name of the parameter that is used in place of the tensor `key` of a checkpoint; by default there is none.
    fn tied_to(&self, _key: &str) -> Option<String> {
        None
    }

    /// Makes a parameter of every tensor that is [tied](Self::tied_to) to another one.
    ///
    /// # Errors
    /// Errors from MLX.
    fn untie(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether the parameter `name` keeps the dtype of its tensor when the others are cast.
    fn keeps_dtype(&self, _name: &str) -> bool {
        false
    }

    /// Changes the `config.json` of the checkpoint to that of this model, if they differ.
    fn update_config(&self, _config: &mut Value) {}

    /// Maps a tensor of a checkpoint to parameters; by default to the one of the same name.
    ///
    /// # Errors
    /// A tensor of an unexpected shape.
    fn map_weight(&self, name: &str, tensor: Array) -> Result<Vec<(String, Array)>> {
        Ok(vec![(name.to_owned(), tensor)])
    }

    /// Maps all parameters to the tensors of a checkpoint; by default under the same names.
    ///
    /// # Errors
    /// Errors from MLX.
    fn export(&self, parameters: Tensors) -> Result<Tensors> {
        Ok(parameters)
    }

    /// Returns mlx-lm's name of the linear layer at `path` and, if mlx-lm stacks it with those of other
    /// experts, the index of its expert.
    fn mlx_name(&self, path: &str) -> (String, Option<usize>) {
        (path.to_owned(), None)
    }
}
