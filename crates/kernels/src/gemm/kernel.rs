//! Micro-kernels: a block of C kept in registers.

use crate::runtime::isa::Isa;

/// Operand format of products; accumulation is in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    F32,
    /// Operands are rounded to bf16 if the processor has bf16 dot products.
    Bf16,
}

impl Precision {
    /// Elements of depth in one word of a panel.
    pub(super) fn depth_per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A micro-kernel for blocks of `left` × `right` elements.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub precision: Precision,
    pub left: usize,
    pub right: usize,
    isa: Isa,
}

impl Kernel {
    /// Selects the fastest kernel of `isa`. Without bf16 dot products, operands are widened to f32.
    pub(super) fn choose(isa: Isa, precision: Precision) -> Self {
        let bf16 = precision == Precision::Bf16 && isa >= Isa::Avx512Bf16;
        let precision = if bf16 { precision } else { Precision::F32 };
        let (left, right) = if isa >= Isa::Avx512 { (14, 32) } else { (6, 16) };
        Self { precision, left, right, isa }
    }

    /// Its instruction set and the block it keeps in registers.
    pub(super) fn describe(self) -> String {
        let level = match self.precision {
            Precision::Bf16 => Isa::Avx512Bf16,
            Precision::F32 => self.isa.min(Isa::Avx512),
        };
        format!("{} {}x{}", level.name(), self.left, self.right)
    }

    /// Adds `a·bᵀ` to the block at the start of `c`, whose rows are `stride` apart.
    pub(super) fn accumulate(self, a: &[u32], b: &[u32], c: &mut [f32], stride: usize) {
        let steps = a.len() / self.left;
        assert!(b.len() == steps * self.right && stride >= self.right);
        assert!(c.len() >= (self.left - 1) * stride + self.right);
        match (self.precision, self.isa) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level of `isa` is the processor's, and the lengths were just checked.
            (Precision::Bf16, _) => unsafe { x86::bf16_14x32(steps, a, b, c, stride) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Precision::F32, isa) if isa >= Isa::Avx512 => unsafe { x86::f32_14x32(steps, a, b, c, stride) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Precision::F32, Isa::Avx2) => unsafe { x86::f32_6x16(steps, a, b, c, stride) },
            _ => portable_6x16(a, b, c, stride),
        }
    }
}

impl Kernel {
    /// Whether there is a form of it that reads the left operand row by row.
    pub(super) fn reads_rows(self) -> bool {
        self.isa == Isa::Avx2
    }

    /// Adds the products of the rows of `a`, from the number `from` on, and `b` to the block at the start of `c`.
    pub(super) fn accumulate_rows(self, a: &[&[f32]], from: usize, b: &[u32], c: &mut [f32], stride: usize) {
        let steps = b.len() / self.right;
        assert!(a.len() == self.left && a.iter().all(|row| row.len() >= from + steps));
        assert!(stride >= self.right && c.len() >= (self.left - 1) * stride + self.right);
        assert!(self.reads_rows());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level of `isa` is the processor's, and the lengths were just checked.
        unsafe {
            let a = std::array::from_fn(|i| a[i].as_ptr().add(from));
            x86::f32_rows_6x16(steps, a, b, c, stride);
        }
    }
}

/// For every processor; the compiler uses its vectors of four.
fn portable_6x16(a: &[u32], b: &[u32], c: &mut [f32], stride: usize) {
    let mut sums = [[0.0_f32; 16]; 6];
    for (a, b) in a.as_chunks::<6>().0.iter().zip(b.as_chunks::<16>().0) {
        for (sums, &a) in sums.iter_mut().zip(a) {
            for (sum, &b) in sums.iter_mut().zip(b) {
                let (a, b) = (f32::from_bits(a), f32::from_bits(b));
                // A fused multiply-add is a call of a function where the processor has none.
                *sum = if cfg!(target_arch = "aarch64") { a.mul_add(b, *sum) } else { a * b + *sum };
            }
        }
    }
    for (row, sums) in c.chunks_mut(stride).zip(sums) {
        for (c, sum) in row.iter_mut().zip(sums) {
            *c += sum;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "names of instructions")]
mod x86 {
    use std::arch::x86_64::*;

    /// # Safety
    /// `a` holds `steps` × 14 words, `b` `steps` × 32, `c` 14 rows of 32, `stride` apart.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn bf16_14x32(steps: usize, a: &[u32], b: &[u32], c: &mut [f32], stride: usize) {
        // SAFETY: the caller vouches for the lengths; loads and stores are unaligned ones.
        unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            let mut sums = [[_mm512_setzero_ps(); 2]; 14];
            for s in 0..steps {
                let b = b.add(s * 32);
                let b = [load_bf16(b), load_bf16(b.add(16))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(
                        (*a.add(s * 14 + i)).cast_signed(),
                    ));
                    sums[0] = _mm512_dpbf16_ps(sums[0], b[0], a);
                    sums[1] = _mm512_dpbf16_ps(sums[1], b[1], a);
                }
            }
            add_512(&sums, c, stride);
        }
    }

    /// # Safety
    /// As [`bf16_14x32`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn f32_14x32(steps: usize, a: &[u32], b: &[u32], c: &mut [f32], stride: usize) {
        // SAFETY: as above.
        unsafe {
            let (a, b, c) = (a.as_ptr().cast::<f32>(), b.as_ptr().cast::<f32>(), c.as_mut_ptr());
            let mut sums = [[_mm512_setzero_ps(); 2]; 14];
            for s in 0..steps {
                let b = b.add(s * 32);
                let b = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(s * 14 + i));
                    sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
                }
            }
            add_512(&sums, c, stride);
        }
    }

    /// # Safety
    /// `a` holds `steps` × 6 words, `b` `steps` × 16, `c` 6 rows of 16, `stride` apart.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_6x16(steps: usize, a: &[u32], b: &[u32], c: &mut [f32], stride: usize) {
        // SAFETY: as above.
        unsafe {
            let (a, b, c) = (a.as_ptr().cast::<f32>(), b.as_ptr().cast::<f32>(), c.as_mut_ptr());
            let mut sums = [[_mm256_setzero_ps(); 2]; 6];
            for s in 0..steps {
                let b = b.add(s * 16);
                let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*a.add(s * 6 + i));
                    sums[0] = _mm256_fmadd_ps(a, b[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, b[1], sums[1]);
                }
            }
            add_256(&sums, c, stride);
        }
    }

    /// # Safety
    /// `steps` numbers can be read at each place of `a`; `b` and `c` as in [`f32_6x16`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_rows_6x16(
        steps: usize,
        a: [*const f32; 6],
        b: &[u32],
        c: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: as above.
        unsafe {
            let (b, c) = (b.as_ptr().cast::<f32>(), c.as_mut_ptr());
            let mut sums = [[_mm256_setzero_ps(); 2]; 6];
            for s in 0..steps {
                let b = b.add(s * 16);
                let b = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (a, sums) in a.iter().zip(&mut sums) {
                    let a = _mm256_set1_ps(*a.add(s));
                    sums[0] = _mm256_fmadd_ps(a, b[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, b[1], sums[1]);
                }
            }
            add_256(&sums, c, stride);
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn add_256(sums: &[[__m256; 2]; 6], c: *mut f32, stride: usize) {
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller vouches for 6 rows of 16 elements at `c`.
                unsafe {
                    let c = c.add(i * stride + 8 * j);
                    _mm256_storeu_ps(c, _mm256_add_ps(_mm256_loadu_ps(c), sum));
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn load_bf16(words: *const u32) -> __m512bh {
        // SAFETY: the caller vouches for 16 words; any bits are values of either type.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(words.cast())) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn add_512(sums: &[[__m512; 2]; 14], c: *mut f32, stride: usize) {
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                // SAFETY: the caller vouches for 14 rows of 32 elements at `c`.
                unsafe {
                    let c = c.add(i * stride + 16 * j);
                    _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), sum));
                }
            }
        }
    }
}
