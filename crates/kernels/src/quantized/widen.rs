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

/// `2^(exponent − 128)`: half the scale that is stored, as levels are twice the numbers.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn half_power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    // The two smallest powers are subnormal.
    f32::from_bits(if exponent > 1 { (exponent - 1) << 23 } else { 0x20_0000 << exponent })
}

/// Half the number that `code` stands for in E4M3. As in MLX, there are neither infinities nor NaN.
pub(super) const fn half_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (((code >> 3) & 15) as u32, (code & 7) as u32);
    let magnitude = if exponent == 0 {
        // Multiples of the smallest number, 2⁻⁹.
        mantissa as f32 * f32::from_bits((127 - 10) << 23)
    } else {
        f32::from_bits(((exponent + 127 - 8) << 23) | (mantissa << 20))
    };
    if code & 128 == 0 { magnitude } else { -magnitude }
}

/// Twice the number of each code of E4M3: scales are read halved.
pub(super) static DOUBLED_E4M3: [f32; 256] = {
    let (mut numbers, mut code) = ([0.0; 256], 0);
    while code < 256 {
        numbers[code] = 4.0 * half_e4m3(code as u8);
        code += 1;
    }
    numbers
};

vectorized! {
    /// Writes halved powers of two.
    pub(super) fn widen_powers(row: &[u8], wide: &mut [f32]) {
        for (wide, &exponent) in wide.iter_mut().zip(row) {
            *wide = half_power(exponent);
        }
    }

    /// Writes halved numbers in E4M3.
    pub(super) fn widen_e4m3(row: &[u8], wide: &mut [f32]) {
        for (wide, &code) in wide.iter_mut().zip(row) {
            *wide = half_e4m3(code);
        }
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
