//! Number formats of updates. Everything is computed in f64 and rounded once.

#![expect(clippy::inline_always, reason = "inlined into functions compiled for wider vectors")]

use half::{bf16, f16};

use crate::runtime::element::Element;

/// A floating-point format that converts to f64 exactly.
pub(crate) trait Number: Copy + Send + Sync {
    fn wide(self) -> f64;

    /// Rounds to nearest even.
    fn narrow(x: f64) -> Self;
}

impl Number for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn narrow(x: f64) -> Self {
        x
    }
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn narrow(x: f64) -> Self {
        x as f32
    }
}

impl Number for f16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(Element::to_f32(self))
    }

    #[inline(always)]
    fn narrow(x: f64) -> Self {
        Self::from_f64(x)
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(Element::to_f32(self))
    }

    #[inline(always)]
    fn narrow(x: f64) -> Self {
        Self::from_f64(x)
    }
}

/// Numbers of one format.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// float64
    F64(&'a [f64]),
    /// float32
    F32(&'a [f32]),
    /// float16
    F16(&'a [f16]),
    /// bfloat16
    Bf16(&'a [bf16]),
}

/// Where numbers of one format are written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// float64
    F64(&'a mut [f64]),
    /// float32
    F32(&'a mut [f32]),
    /// float16
    F16(&'a mut [f16]),
    /// bfloat16
    Bf16(&'a mut [bf16]),
}

/// Evaluates `$body` with the slice of `$values` as `$slice`, whatever its format.
macro_rules! with_values {
    ($kind:ident, $values:expr, $slice:ident => $body:expr) => {
        match $values {
            $kind::F64($slice) => $body,
            $kind::F32($slice) => $body,
            $kind::F16($slice) => $body,
            $kind::Bf16($slice) => $body,
        }
    };
}
pub(crate) use with_values;

impl Values<'_> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        with_values!(Values, self, slice => slice.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first element that is infinite or not a number.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<usize> {
        with_values!(Values, self, slice => slice.iter().position(|x| !x.wide().is_finite()))
    }
}

impl<'a> ValuesMut<'a> {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        with_values!(ValuesMut, self, slice => slice.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ValuesMut<'_> {
        match self {
            Self::F64(slice) => ValuesMut::F64(slice),
            Self::F32(slice) => ValuesMut::F32(slice),
            Self::F16(slice) => ValuesMut::F16(slice),
            Self::Bf16(slice) => ValuesMut::Bf16(slice),
        }
    }

    /// Parts of at most `len` elements.
    pub(crate) fn chunks(self, len: usize) -> Vec<ValuesMut<'a>> {
        match self {
            Self::F64(slice) => slice.chunks_mut(len).map(ValuesMut::F64).collect(),
            Self::F32(slice) => slice.chunks_mut(len).map(ValuesMut::F32).collect(),
            Self::F16(slice) => slice.chunks_mut(len).map(ValuesMut::F16).collect(),
            Self::Bf16(slice) => slice.chunks_mut(len).map(ValuesMut::Bf16).collect(),
        }
    }
}
