//! Weight of a linear layer: dense, quantized or sparse.

use mlx_rs::Array;

use crate::bitmask::{Layout, SparseCodes};
use crate::gemm::{Rows, gemv, matrix};
use crate::quantized::{self, Accuracy, Format, PackedWeight, QuantizedRows};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, Slice, with_floats};
use crate::sparse::{self, SparseMatrix, with_sparse_rows};

/// Weight matrix, `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Floating-point matrix.
    Dense(&'a Array),
    /// Quantized matrix.
    Packed(PackedWeight<'a>),
    /// Matrix with many zeros.
    Sparse(&'a SparseMatrix),
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
            Self::Sparse(matrix) => {
                let (rows, columns) = matrix.shape();
                (rows as i32, columns as i32)
            }
        }
    }

    /// Quantization format; `None` for floating-point numbers.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(weight) => Some(weight.format),
            Self::Sparse(matrix) => matrix.format(),
        }
    }
}

/// Indices of a weight's arrays among the inputs of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightSlot {
    pub first: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense,
    Packed(Format),
    /// With the format of its codes.
    Sparse(Layout, Option<Format>),
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
                Self { first, kind: Kind::Dense }
            }
            Weight::Packed(weight) => {
                inputs.extend(weight.operands());
                Self { first, kind: Kind::Packed(weight.format) }
            }
            Weight::Sparse(matrix) => {
                inputs.extend(matrix.operands());
                Self { first, kind: Kind::Sparse(matrix.layout(), matrix.format()) }
            }
        }
    }

    /// Whether the weight is one array of numbers, which may have a gradient.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.kind, Kind::Dense)
    }

    pub(super) fn is_quantized(&self) -> bool {
        match self.kind {
            Kind::Dense => false,
            Kind::Packed(_) => true,
            Kind::Sparse(_, format) => format.is_some(),
        }
    }

    /// The matrix of codes, if there are codes.
    fn quantized<'a>(&self, inputs: &[Operand<'a>]) -> Option<QuantizedRows<'a>> {
        let operands = &inputs[self.first..];
        match self.kind {
            Kind::Packed(format) => Some(quantized::weights(format, operands)),
            Kind::Sparse(layout, Some(format)) => {
                let codes = SparseCodes::new(layout.view(words(&operands[0])));
                let (scales, biases) = (operands[1].data, operands[2].data);
                Some(QuantizedRows::sparse(format, layout.shape(), codes, scales, biases))
            }
            Kind::Dense | Kind::Sparse(_, None) => None,
        }
    }

    pub(crate) fn rows<'a>(&self, inputs: &[Operand<'a>]) -> Box<dyn Rows + 'a> {
        if let Some(rows) = self.quantized(inputs) {
            return Box::new(rows);
        }
        let operand = &inputs[self.first];
        match self.kind {
            Kind::Sparse(layout, _) => with_sparse_rows!(layout.view(words(operand)), rows => Box::new(rows)),
            Kind::Dense | Kind::Packed(_) => matrix(operand),
        }
    }

    /// Whether [`multiply`](Self::multiply) is better than a blocked product for so many `rows` of `x`.
    pub(super) fn is_direct(&self, isa: Isa, accuracy: Accuracy, rows: usize) -> bool {
        match self.kind {
            Kind::Packed(format) | Kind::Sparse(_, Some(format)) => {
                quantized::is_direct(isa, accuracy, format, rows)
            }
            Kind::Dense | Kind::Sparse(_, None) => rows <= FEW,
        }
    }
}

/// The one array of a sparse matrix.
fn words<'a>(operand: &Operand<'a>) -> &'a [u32] {
    let Slice::U32(words) = operand.data else {
        unreachable!("kernels check dtypes before they build a node");
    };
    words
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
        if let Some(weights) = weight.quantized(inputs) {
            packed.push(quantized::Product { weights, y });
            continue;
        }
        let operand = &inputs[weight.first];
        match weight.kind {
            Kind::Sparse(layout, _) => sparse::multiply(isa, x, layout.view(words(operand)), y),
            Kind::Dense | Kind::Packed(_) => {
                let columns = operand.shape[1] as usize;
                with_floats!(Slice, operand.data, weight => gemv::dense(isa, x, weight, columns, y));
            }
        }
    }
    quantized::linear(isa, accuracy, x, &mut packed);
}
