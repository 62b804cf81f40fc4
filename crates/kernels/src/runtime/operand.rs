//! Operands of kernels: row-major slices in one of the number formats.

use half::{bf16, f16};

/// Elements of an input.
#[derive(Clone, Copy)]
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    U32(&'a [u32]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

/// A row-major input.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub shape: &'a [i32],
    pub data: Slice<'a>,
}

/// Elements of an output.
pub(crate) enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

/// A row-major output. Its elements are uninitialized unless a donated input provides them, so all must be written.
pub(crate) struct OperandMut<'a> {
    pub shape: &'a [i32],
    pub data: SliceMut<'a>,
}

/// Evaluates `$body` with `$x` bound to the slice of a floating-point operand.
macro_rules! with_floats {
    ($kind:ident, $data:expr, $x:ident => $body:expr) => {
        match $data {
            $crate::runtime::operand::$kind::F32($x) => $body,
            $crate::runtime::operand::$kind::F16($x) => $body,
            $crate::runtime::operand::$kind::Bf16($x) => $body,
            #[allow(unreachable_patterns)]
            _ => unreachable!("kernels check dtypes before they build a node"),
        }
    };
}
pub(crate) use with_floats;
