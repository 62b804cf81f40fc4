//! What every kind of model has in common: how its layers are reached, and how its parameters relate to the tensors of
//! a checkpoint.

use mlx_rs::module::ModuleParameters;
use mlx_rs::{Array, Dtype};

use super::quantized::WeightMut;
use super::{Linear, Result};
use crate::params::Tensors;

/// A model as files, quantization and adapters see it. Most kinds only say which linear layers they have and what they
/// compute in.
pub trait Network: ModuleParameters + Send {
    /// Calls `visit` on every linear layer that may be adapted with its key path, in order.
    ///
    /// This is the one seam through which every method reaches layers.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_linears(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Linear) -> crate::Result<()>,
    ) -> crate::Result<()>;

    /// Calls `visit` on the matrix of every layer that may be quantized with the layer's key path, in order; by default
    /// the linear layers.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_quantizable(
        &mut self,
        visit: &mut dyn FnMut(&str, WeightMut) -> crate::Result<()>,
    ) -> crate::Result<()> {
        self.visit_linears(&mut |path, layer| visit(path, layer.weight_mut()))
    }

    /// Number format of activations.
    fn dtype(&self) -> Dtype;

    /// Whether a tensor of a checkpoint is known to carry nothing this model needs.
    fn ignores(&self, _key: &str) -> bool {
        false
    }

    /// The parameters that the tensor `name` of a checkpoint holds; by default one of the same name.
    ///
    /// # Errors
    /// A tensor of a shape that cannot be taken apart.
    fn map_weight(&self, name: &str, tensor: Array) -> Result<Vec<(String, Array)>> {
        Ok(vec![(name.to_owned(), tensor)])
    }

    /// All parameters as the tensors of a checkpoint that others read; by default prefixed their own names.
    ///
    /// # Errors
    /// What MLX raises.
    fn export(&self, parameters: Tensors) -> Result<Tensors> {
        Ok(parameters)
    }

    /// What mlx-lm calls the linear layer at `path`, and which of its experts it is where mlx-lm stacks them.
    fn mlx_name(&self, path: &str) -> (String, Option<usize>) {
        (path.to_owned(), None)
    }
}
