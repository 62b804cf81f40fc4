//! Scales and biases as f32.

use half::f16;

use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};

/// Writes `row` as f32.
pub(super) fn widen_f16(isa: Isa, row: &[f16], wide: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the level of `isa` is the processor's.
        return unsafe { avx512::widen_f16(row, wide) };
    }
    widen(isa, row, wide);
}

vectorized! {
    /// Writes `row` as f32.
    pub(super) fn widen<T: Element>(row: &[T], wide: &mut [f32]) {
        T::widen(row, wide);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

    use std::arch::x86_64::*;

    /// The processor's own conversion.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f,f16c")]
    pub(super) unsafe fn widen_f16(row: &[half::f16], wide: &mut [f32]) {
        assert_eq!(row.len(), wide.len());
        let ahead = row.len();
        let (wide, rest) = wide.as_chunks_mut::<16>();
        let (row, row_rest) = row.as_chunks::<16>();
        for (wide, row) in wide.iter_mut().zip(row) {
            // Those of the next task, most likely; a hint never faults.
            _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(ahead).cast());
            // SAFETY: 16 numbers on each side.
            unsafe {
                _mm512_storeu_ps(wide.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(row.as_ptr().cast())));
            };
        }
        for (wide, x) in rest.iter_mut().zip(row_rest) {
            *wide = x.to_f32();
        }
    }
}
