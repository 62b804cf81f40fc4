//! How codes of each kind meet activations: the inner loops of products of few rows.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use crate::runtime::element::Element;

/// Words of a register.
pub(super) const LANES: usize = 16;

/// How codes meet activations.
pub(super) trait Kernel {
    /// Neighbouring columns in a lane.
    const LANE: usize;

    /// What the codes are looked up in.
    ///
    /// # Safety
    /// The processor has the kernel's instructions.
    unsafe fn table(levels: &[u8; 16]) -> __m512i;

    /// Registers of codes of a [block](super::blocks).
    const BLOCK: usize = 0;

    /// The levels of a block, in the order of its activations.
    ///
    /// # Safety
    /// The processor has the kernel's instructions, and a block can be read at `codes`.
    unsafe fn block(_codes: *const u8, _table: __m512i) -> [__m512i; 4] {
        unreachable!("a kernel without blocks")
    }

    /// Dot products of a unit of codes with the unit at `x` and those of the next `M - 1` rows, each `stride`
    /// words on.
    ///
    /// # Safety
    /// As above, and a unit can be read at each of these places.
    unsafe fn dot<const M: usize>(
        codes: __m512i,
        table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M];
}

/// Four bits, looked up as f32.
pub(super) struct F32Nibbles;

#[allow(clippy::inline_always)]
impl Kernel for F32Nibbles {
    const LANE: usize = 8;

    #[inline(always)]
    unsafe fn table(levels: &[u8; 16]) -> __m512i {
        let levels = levels.map(f32::from);
        // SAFETY: 16 numbers.
        unsafe { _mm512_loadu_si512(levels.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        mut codes: __m512i,
        table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let mut dots = [_mm512_setzero_ps(); M];
            for j in 0..8 {
                // Only the lowest four bits of a lane count.
                let levels = _mm512_permutexvar_ps(codes, _mm512_castsi512_ps(table));
                for (m, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_fmadd_ps(levels, load_ps(x.add(m * stride + j * LANES)), *dot);
                }
                codes = _mm512_srli_epi32::<4>(codes);
            }
            dots
        }
    }
}

/// Four bits, looked up as bf16.
pub(super) struct Bf16Nibbles;

#[allow(clippy::inline_always)]
impl Kernel for Bf16Nibbles {
    const LANE: usize = 8;

    #[inline(always)]
    unsafe fn table(levels: &[u8; 16]) -> __m512i {
        // Twice, because an index has five bits and the fifth belongs to the next code.
        let table: [half::bf16; 32] = std::array::from_fn(|i| Element::from_f32(f32::from(levels[i % 16])));
        // SAFETY: 64 bytes.
        unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        mut codes: __m512i,
        table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let mut dots = [_mm512_setzero_ps(); M];
            for j in 0..4 {
                let levels = _mm512_permutexvar_epi16(codes, table);
                for (m, dot) in dots.iter_mut().enumerate() {
                    let x = load(x.add(m * stride + j * LANES));
                    *dot = _mm512_dpbf16_ps(*dot, as_bf16(levels), as_bf16(x));
                }
                codes = _mm512_srli_epi16::<4>(codes);
            }
            dots
        }
    }
}

/// Four bits as bytes, looked up where levels are not the codes.
pub(super) struct Int8Nibbles<const LOOK_UP: bool>;

#[allow(clippy::inline_always)]
impl<const LOOK_UP: bool> Kernel for Int8Nibbles<LOOK_UP> {
    const LANE: usize = 8;
    const BLOCK: usize = 2;

    #[inline(always)]
    unsafe fn block(codes: *const u8, table: __m512i) -> [__m512i; 4] {
        // SAFETY: the caller vouches for the instructions and for `codes`.
        unsafe {
            let a = _mm512_loadu_si512(codes.cast());
            let b = _mm512_loadu_si512(codes.add(64).cast());
            let first = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            let second = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
            let nibble = _mm512_set1_epi8(15);
            let even = |codes| _mm512_and_si512(codes, nibble);
            let odd = |codes| _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
            let levels = [even(first), odd(first), even(second), odd(second)];
            if LOOK_UP { levels.map(|levels| _mm512_shuffle_epi8(table, levels)) } else { levels }
        }
    }

    #[inline(always)]
    unsafe fn table(levels: &[u8; 16]) -> __m512i {
        // SAFETY: 16 bytes.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(levels.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        codes: __m512i,
        table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            let mut even = _mm512_and_si512(codes, nibble);
            let mut odd = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
            if LOOK_UP {
                (even, odd) = (_mm512_shuffle_epi8(table, even), _mm512_shuffle_epi8(table, odd));
            }
            std::array::from_fn(|m| {
                let x = x.add(m * stride);
                let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), even, load(x));
                let sum = _mm512_dpbusd_epi32(sum, odd, load(x.add(LANES)));
                _mm512_mul_ps(_mm512_cvtepi32_ps(sum), load_ps(x.add(2 * LANES)))
            })
        }
    }
}

/// Bytes, converted to f32.
pub(super) struct F32Bytes;

#[allow(clippy::inline_always)]
impl Kernel for F32Bytes {
    const LANE: usize = 4;

    #[inline(always)]
    unsafe fn table(_levels: &[u8; 16]) -> __m512i {
        // SAFETY: the caller vouches for the instructions.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        mut codes: __m512i,
        _table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let mut dots = [_mm512_setzero_ps(); M];
            for j in 0..4 {
                let levels = _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(255)));
                for (m, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_fmadd_ps(levels, load_ps(x.add(m * stride + j * LANES)), *dot);
                }
                codes = _mm512_srli_epi32::<8>(codes);
            }
            dots
        }
    }
}

/// Bytes as they are.
pub(super) struct Int8Bytes;

#[allow(clippy::inline_always)]
impl Kernel for Int8Bytes {
    const LANE: usize = 4;
    const BLOCK: usize = 4;

    #[inline(always)]
    unsafe fn block(codes: *const u8, _table: __m512i) -> [__m512i; 4] {
        // SAFETY: the caller vouches for the instructions and for `codes`.
        unsafe {
            let [a, b, c, d] = [0, 64, 128, 192].map(|i| _mm512_loadu_si512(codes.add(i).cast()));
            let low =
                [_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d)];
            let high =
                [_mm512_shuffle_i32x4::<0b11_10_11_10>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d)];
            [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(low[0], low[1]),
                _mm512_shuffle_i32x4::<0b10_00_10_00>(high[0], high[1]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(high[0], high[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn table(_levels: &[u8; 16]) -> __m512i {
        // SAFETY: the caller vouches for the instructions.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        codes: __m512i,
        _table: __m512i,
        x: *const u32,
        stride: usize,
    ) -> [__m512; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            std::array::from_fn(|m| {
                let x = x.add(m * stride);
                let sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, load(x));
                _mm512_mul_ps(_mm512_cvtepi32_ps(sum), load_ps(x.add(LANES)))
            })
        }
    }
}

/// A register of words.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn load(words: *const u32) -> __m512i {
    // SAFETY: the caller vouches for the instructions and for 16 words.
    unsafe { _mm512_loadu_si512(words.cast()) }
}

/// A register of f32.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn load_ps(words: *const u32) -> __m512 {
    // SAFETY: the caller vouches for the instructions and for 16 words.
    unsafe { _mm512_loadu_ps(words.cast()) }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: registers of the same size, and any bits are a value.
    unsafe { std::mem::transmute(x) }
}
