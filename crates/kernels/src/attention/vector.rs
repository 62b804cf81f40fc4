//! SIMD vectors of f32, generic over the instruction set.
//!
//! All methods are inlined into functions with the required target features.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as x86;

use half::{bf16, f16};

use crate::runtime::element::Element;

/// A SIMD vector of f32.
pub(crate) trait Vector: Copy {
    const LEN: usize;
    /// Vectors of columns that a product computes at once.
    const GROUP: usize;
    /// Rows that dot products with four others are computed of at once.
    const ROWS: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `x·y + z`
    unsafe fn multiply_add(x: Self, y: Self, z: Self) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// The sum of each vector's numbers.
    unsafe fn sums(vectors: [Self; 4]) -> [f32; 4];
}

/// A number format that converts to f32 when loaded into a vector.
pub(crate) trait Load: Element {
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

macro_rules! load {
    ($($format:ty: $load:ident),*) => {$(
        #[allow(clippy::inline_always)]
        impl Load for $format {
            #[inline(always)]
            unsafe fn load<V: Vector>(from: *const Self) -> V {
                // SAFETY: the caller's.
                unsafe { V::$load(from) }
            }
        }
    )*};
}
load!(f32: load, f16: load_f16, bf16: load_bf16);

/// Four numbers, as NEON and SSE have; the compiler finds the instructions.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

#[allow(clippy::inline_always)]
impl Vector for Portable {
    const LEN: usize = 4;
    const GROUP: usize = 2;
    const ROWS: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 4])
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn multiply_add(x: Self, y: Self, z: Self) -> Self {
        // Arm always has the fused instruction; elsewhere it would be a call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        Self(std::array::from_fn(|i| {
            if fused { x.0[i].mul_add(y.0[i], z.0[i]) } else { x.0[i] * y.0[i] + z.0[i] }
        }))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { from.cast::<[f16; 4]>().read_unaligned() }.map(Element::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { from.cast::<[bf16; 4]>().read_unaligned() }.map(Element::to_f32))
    }

    #[inline(always)]
    unsafe fn sums(vectors: [Self; 4]) -> [f32; 4] {
        vectors.map(|Self([a, b, c, d])| (a + c) + (b + d))
    }
}

/// A vector type of x86-64 and its intrinsics; `$sums` is the body of [`Vector::sums`].
#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    (
        $vector:ident: $len:literal, $group:literal, $rows:literal;
        $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident;
        $load_f16:ident, $load_bf16:ident, $sums:ident
    ) => {
        // SAFETY (of each block): the caller's, who has the instructions and vouches for the pointers.
        #[allow(clippy::inline_always, clippy::undocumented_unsafe_blocks)]
        impl Vector for x86::$vector {
            const LEN: usize = $len;
            const GROUP: usize = $group;
            const ROWS: usize = $rows;

            #[inline(always)]
            unsafe fn zero() -> Self {
                unsafe { x86::$zero() }
            }

            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                unsafe { x86::$splat(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                unsafe { x86::$load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { x86::$store(to, self) }
            }

            #[inline(always)]
            unsafe fn multiply_add(x: Self, y: Self, z: Self) -> Self {
                unsafe { x86::$fma(x, y, z) }
            }

            #[inline(always)]
            unsafe fn load_f16(from: *const f16) -> Self {
                unsafe { $load_f16(from) }
            }

            #[inline(always)]
            unsafe fn load_bf16(from: *const bf16) -> Self {
                unsafe { $load_bf16(from) }
            }

            #[inline(always)]
            unsafe fn sums(vectors: [Self; 4]) -> [f32; 4] {
                unsafe { $sums(vectors) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector!(
    __m512: 16, 4, 7;
    _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps;
    f16_512, bf16_512, sums_512
);
#[cfg(target_arch = "x86_64")]
vector!(
    __m256: 8, 2, 2;
    _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps;
    f16_256, bf16_256, sums_256
);

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn f16_512(from: *const f16) -> x86::__m512 {
    // SAFETY: the caller's, here and in the three functions below.
    x86::_mm512_cvtph_ps(unsafe { x86::_mm256_loadu_si256(from.cast()) })
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn bf16_512(from: *const bf16) -> x86::__m512 {
    // SAFETY: as above. A bf16 is the upper half of an f32.
    let halves = x86::_mm512_cvtepu16_epi32(unsafe { x86::_mm256_loadu_si256(from.cast()) });
    x86::_mm512_castsi512_ps(x86::_mm512_slli_epi32::<16>(halves))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn f16_256(from: *const f16) -> x86::__m256 {
    // SAFETY: as above.
    x86::_mm256_cvtph_ps(unsafe { x86::_mm_loadu_si128(from.cast()) })
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn bf16_256(from: *const bf16) -> x86::__m256 {
    // SAFETY: as above.
    let halves = x86::_mm256_cvtepu16_epi32(unsafe { x86::_mm_loadu_si128(from.cast()) });
    x86::_mm256_castsi256_ps(x86::_mm256_slli_epi32::<16>(halves))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_512([a, b, c, d]: [x86::__m512; 4]) -> [f32; 4] {
    use x86::{_mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd, _mm512_unpackhi_ps, _mm512_unpacklo_ps};
    use x86::{_mm512_unpackhi_pd, _mm512_unpacklo_pd};
    // In each quarter: halves of a and b, then of c and d, and then all four.
    let pair = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    let (ab, cd) = (pair(a, b), pair(c, d));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let quarters = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let halves = x86::_mm256_add_ps(
        x86::_mm512_castps512_ps256(quarters),
        x86::_mm256_castpd_ps(x86::_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(quarters))),
    );
    join_halves(halves)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn sums_256([a, b, c, d]: [x86::__m256; 4]) -> [f32; 4] {
    use x86::_mm256_hadd_ps as add;
    join_halves(add(add(a, b), add(c, d)))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx")]
fn join_halves(x: x86::__m256) -> [f32; 4] {
    let sums = x86::_mm_add_ps(x86::_mm256_castps256_ps128(x), x86::_mm256_extractf128_ps::<1>(x));
    // SAFETY: both are four numbers.
    unsafe { std::mem::transmute::<x86::__m128, [f32; 4]>(sums) }
}
