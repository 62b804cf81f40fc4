//! Floating-point formats of activations and weights: f32, f16 and bf16. Kernels compute in f32, a row at a time.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::runtime::operand::{Slice, SliceMut};
use crate::runtime::scratch::{self, Plain, Scratch};

/// A floating-point format that converts to f32 exactly.
pub(crate) trait Element: Plain {
    /// Converts `row` to f32.
    fn widen(row: &[Self], wide: &mut [f32]);

    /// `row` without conversion, if the format is f32.
    fn as_f32(_row: &[Self]) -> Option<&[f32]> {
        None
    }

    /// Converts `wide` from f32, rounding to nearest even.
    fn narrow(wide: &[f32], row: &mut [Self]);

    /// Converts `row` to bf16, rounding to nearest even.
    fn to_bf16(row: &[Self], narrow: &mut [bf16]) {
        assert_eq!(row.len(), narrow.len());
        for (narrow, x) in narrow.iter_mut().zip(row) {
            *narrow = Element::from_f32(Element::to_f32(*x));
        }
    }

    /// Converts one number to f32.
    fn to_f32(self) -> f32;

    /// Converts one number from f32, rounding to nearest even.
    fn from_f32(x: f32) -> Self;

    /// Elements of an operand.
    ///
    /// # Panics
    /// If the operand has another format.
    fn of<'a>(slice: &Slice<'a>) -> &'a [Self];

    /// Elements of an output.
    ///
    /// # Panics
    /// If the output has another format.
    fn of_mut<'a>(slice: &'a mut SliceMut) -> &'a mut [Self];
}

/// Defines [`Element::of`] and [`Element::of_mut`] for the variant `$kind`.
macro_rules! elements_of {
    ($kind:ident) => {
        fn of<'a>(slice: &Slice<'a>) -> &'a [Self] {
            match slice {
                Slice::$kind(data) => data,
                _ => unreachable!("kernels check dtypes before they build a node"),
            }
        }

        fn of_mut<'a>(slice: &'a mut SliceMut) -> &'a mut [Self] {
            match slice {
                SliceMut::$kind(data) => data,
                _ => unreachable!("kernels check dtypes before they build a node"),
            }
        }
    };
}

/// Evaluates `$body` with `$element` as the element type of `$slice`, a floating-point [`Slice`].
macro_rules! with_element {
    ($slice:expr, $element:ident => $body:expr) => {
        match $slice {
            $crate::runtime::operand::Slice::F32(_) => {
                type $element = f32;
                $body
            }
            $crate::runtime::operand::Slice::F16(_) => {
                type $element = half::f16;
                $body
            }
            $crate::runtime::operand::Slice::Bf16(_) => {
                type $element = half::bf16;
                $body
            }
            _ => unreachable!("kernels check dtypes before they build a node"),
        }
    };
}
pub(crate) use with_element;

/// Copies `slice` to working memory as f32.
pub(crate) fn widened(slice: &Slice) -> Scratch<f32> {
    with_element!(slice, T => {
        let row = T::of(slice);
        let mut wide = scratch::take(row.len());
        T::widen(row, &mut wide);
        wide
    })
}

/// Converts `wide` to the format of `slice`.
pub(crate) fn narrow_to(wide: &[f32], slice: &mut SliceMut) {
    match slice {
        SliceMut::F32(row) => Element::narrow(wide, row),
        SliceMut::F16(row) => Element::narrow(wide, row),
        SliceMut::Bf16(row) => Element::narrow(wide, row),
    }
}

#[allow(clippy::inline_always)]
impl Element for f32 {
    elements_of!(F32);

    #[inline(always)]
    fn as_f32(row: &[Self]) -> Option<&[f32]> {
        Some(row)
    }

    #[inline(always)]
    fn widen(row: &[Self], wide: &mut [f32]) {
        wide.copy_from_slice(row);
    }

    #[inline(always)]
    fn narrow(wide: &[f32], row: &mut [Self]) {
        row.copy_from_slice(wide);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

#[allow(clippy::inline_always)]
impl Element for bf16 {
    elements_of!(Bf16);

    #[inline(always)]
    fn widen(row: &[Self], wide: &mut [f32]) {
        assert_eq!(row.len(), wide.len());
        for (wide, x) in wide.iter_mut().zip(row) {
            *wide = x.to_f32();
        }
    }

    #[inline(always)]
    fn narrow(wide: &[f32], row: &mut [Self]) {
        assert_eq!(row.len(), wide.len());
        for (x, &wide) in row.iter_mut().zip(wide) {
            *x = Element::from_f32(wide);
        }
    }

    #[inline(always)]
    fn to_bf16(row: &[Self], narrow: &mut [bf16]) {
        narrow.copy_from_slice(row);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // The crate's own conversion branches; this one vectorises.
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        Self::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
    }
}

#[allow(clippy::inline_always)]
impl Element for f16 {
    elements_of!(F16);

    #[inline(always)]
    fn widen(row: &[Self], wide: &mut [f32]) {
        assert_eq!(row.len(), wide.len());
        for (wide, x) in wide.iter_mut().zip(row) {
            *wide = Element::to_f32(*x);
        }
    }

    #[inline(always)]
    fn narrow(wide: &[f32], row: &mut [Self]) {
        row.convert_from_f32_slice(wide);
    }

    // The crate's own conversion asks for the processor's features; this one vectorises.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let (sign, rest) = (u32::from(self.to_bits() & 0x8000) << 16, u32::from(self.to_bits() & 0x7fff));
        // Exponents count from 15 in f16 and from 127 in f32.
        let normal = (rest << 13) + (112 << 23);
        let subnormal = f32::from_bits((rest << 13) + (113 << 23)) - f32::from_bits(113 << 23);
        let magnitude = match rest {
            0x7c00.. => (rest << 13) | 0x7f80_0000,
            0x0400.. => normal,
            _ => subnormal.to_bits(),
        };
        f32::from_bits(magnitude | sign)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_widens_as_the_half_crate() {
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            let (ours, theirs) = (Element::to_f32(x), x.to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (x.is_nan() && ours.is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn bf16_rounds_as_the_half_crate() {
        for bits in (0..u32::MAX - 65_537).step_by(65_537) {
            let x = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::from_f32(x), bf16::from_f32(x));
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{x}");
        }
    }
}
