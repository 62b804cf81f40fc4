//! Weight of a linear layer, dense or quantized.

use mlx_rs::Array;

use crate::gemm::{Rows, gemv, matrix};
use crate::quantized::{self, Accuracy, Format, PackedWeight};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, with_floats};

/// Weight matrix, `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Floating-point matrix.
    Dense(&'a Array),
    /// Quantized matrix.
    Packed(PackedWeight<'a>),
}

impl Weight<'_> {
    /// `(out, in)`; `(0, 0)` if the arrays do not form a matrix.
    #[must_use]
    pub fn shape(&self) -> (i32, i32) {
        match self {
            Self::Dense(weight) if weight.ndim() == 2 => (weight.dim(0), weight.dim(1)),
            Self::Dense(_) => (0, 0),
            Self::Packed(weight) => {
                let (rows, columns) = weight.shape().unwrap_or_default();
                (rows as i32, columns as i32)
            }
        }
    }
}

/// Indices of a weight's arrays among the inputs of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightSlot {
    pub first: usize,
    format: Option<Format>,
}

/// Rows of activations up to which a dense weight is better read as it is.
const FEW: usize = 8;

impl WeightSlot {
    /// Puts the arrays of `weight` behind `inputs`.
    pub(crate) fn append<'a>(weight: Weight<'a>, inputs: &mut Vec<&'a Array>) -> Self {
        let first = inputs.len();
        match weight {
            Weight::Dense(weight) => {
                inputs.push(weight);
                Self { first, format: None }
            }
            Weight::Packed(weight) => {
                inputs.extend(weight.operands());
                Self { first, format: Some(weight.format) }
            }
        }
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.format.is_some()
    }

    pub(crate) fn rows<'a>(&self, inputs: &[Operand<'a>]) -> Box<dyn Rows + 'a> {
        match self.format {
            None => matrix(&inputs[self.first]),
            Some(format) => Box::new(quantized::weights(format, &inputs[self.first..])),
        }
    }

    /// Whether [`multiply`](Self::multiply) is better than a blocked product for so many `rows` of `x`.
    pub(super) fn is_direct(&self, isa: Isa, accuracy: Accuracy, rows: usize) -> bool {
        match self.format {
            None => rows <= FEW,
            Some(format) => quantized::is_direct(isa, accuracy, format, rows),
        }
    }
}

/// `y = x·Wᵀ`
pub(super) struct Product<'a> {
    pub weight: WeightSlot,
    pub y: &'a mut [f32],
}

/// Computes `products` for any number of rows of `x`, best for few; those with packed weights together.
pub(super) fn multiply(isa: Isa, accuracy: Accuracy, x: &[f32], inputs: &[Operand], products: Vec<Product>) {
    let mut packed = Vec::new();
    for Product { weight, y } in products {
        let operands = &inputs[weight.first..];
        match weight.format {
            None => {
                let columns = operands[0].shape[1] as usize;
                with_floats!(Slice, operands[0].data, weight => gemv::dense(isa, x, weight, columns, y));
            }
            Some(format) => {
                packed.push(quantized::Product { weights: quantized::weights(format, operands), y });
            }
        }
    }
    quantized::linear(isa, accuracy, x, &mut packed);
}
