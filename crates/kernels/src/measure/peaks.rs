//! Peak arithmetic throughput and memory bandwidth, measured with short loops.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;

use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::{parallel_for, parallel_ranges, threads};

/// Peak rates of all threads together. A multiply-add counts as two operations.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// f32 throughput in GFLOP/s.
    pub f32_gflops: f64,
    /// bf16 throughput with f32 accumulation in GFLOP/s; `None` without hardware support.
    pub bf16_gflops: Option<f64>,
    /// int8 throughput with int32 accumulation in Gop/s; `None` without hardware support.
    pub int8_gops: Option<f64>,
    /// Memory read bandwidth in GB/s.
    pub read_gbs: f64,
}

/// Dominant arithmetic of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    F32,
    Bf16,
    Int8,
}

impl Peaks {
    /// Measures all peaks; takes about half a second.
    pub(super) fn measure(isa: Isa) -> Self {
        Self {
            f32_gflops: f32_loop(isa),
            bf16_gflops: bf16_loop(isa),
            int8_gops: int8_loop(isa),
            read_gbs: read(isa),
        }
    }

    /// Operations per second; kernels without an instruction for the format of their own compute in f32.
    pub(super) fn operations(&self, arithmetic: Arithmetic) -> f64 {
        let own = match arithmetic {
            Arithmetic::F32 => None,
            Arithmetic::Bf16 => self.bf16_gflops,
            Arithmetic::Int8 => self.int8_gops,
        };
        own.unwrap_or(self.f32_gflops) * 1e9
    }

    /// Bytes per second.
    pub(super) fn bytes(&self) -> f64 {
        self.read_gbs * 1e9
    }
}

/// Rounds of a loop: about a millisecond.
const STEPS: usize = 1 << 17;

/// 10⁹ operations per second of a loop of [`STEPS`] rounds with `operations` each, on all threads.
fn speed(operations: usize, task: impl Fn() + Sync) -> f64 {
    // Several tasks per thread, for those that another program interrupts.
    let tasks = 4 * threads();
    let seconds = best(20, || parallel_for(tasks, |_| task()));
    (tasks * STEPS * operations) as f64 / seconds / 1e9
}

/// The shortest time of some tries, in seconds.
fn best(tries: usize, work: impl Fn()) -> f64 {
    let once = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..tries).map(once).fold(f64::INFINITY, f64::min)
}

fn f32_loop(isa: Isa) -> f64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this level exists only where the processor has it.
        isa if isa >= Isa::Avx512 => speed(x86::WIDE * 16 * 2, || unsafe { x86::f32_512() }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => speed(x86::NARROW * 8 * 2, || unsafe { x86::f32_256() }),
        _ => speed(PORTABLE * 4 * 2, portable),
    }
}

fn bf16_loop(isa: Isa) -> Option<f64> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512Bf16 => Some(speed(x86::WIDE * 32 * 2, || unsafe { x86::bf16_512() })),
        _ => None,
    }
}

fn int8_loop(isa: Isa) -> Option<f64> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        isa if isa >= Isa::Avx512Vnni => Some(speed(x86::WIDE * 64 * 2, || unsafe { x86::int8_512() })),
        _ => None,
    }
}

/// Vectors of four that a processor's registers hold and that hide the latency of an addition.
const PORTABLE: usize = if cfg!(target_arch = "aarch64") { 24 } else { 12 };

fn portable() {
    let (a, b) = black_box((0.5_f32, 0.5_f32));
    let mut sums = black_box([[1.0_f32; 4]; PORTABLE]);
    for _ in 0..STEPS {
        for sum in sums.as_flattened_mut() {
            // A fused multiply-add is a call of a function where the processor has none.
            *sum = if cfg!(target_arch = "aarch64") { sum.mul_add(a, b) } else { *sum * a + b };
        }
    }
    black_box(sums);
}

/// Reads 256 MiB, more than the caches of most machines hold.
fn read(isa: Isa) -> f64 {
    const WORDS: usize = 64 << 20;
    let words = vec![1_u32; WORDS];
    let seconds = best(6, || {
        parallel_ranges(WORDS, 1 << 18, |range| {
            black_box(sum(isa, &words[range]));
        });
    });
    size_of_val(words.as_slice()) as f64 / seconds / 1e9
}

vectorized! {
    fn sum(words: &[u32]) -> u32 {
        words.iter().fold(0, |sum, &word| sum.wrapping_add(word))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::STEPS;

    /// Sums at once: enough to hide the latency, few enough for the registers.
    pub(super) const WIDE: usize = 24;
    pub(super) const NARROW: usize = 12;

    // The first values of all sums are hidden from the compiler, which would otherwise compute one for all.

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_512() {
        let (a, b) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)));
        let mut sums = black_box([_mm512_setzero_ps(); WIDE]);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_256() {
        let (a, b) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(0.5)));
        let mut sums = black_box([_mm256_setzero_ps(); NARROW]);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16_512() {
        let half = _mm512_set1_ps(0.5);
        let (a, b) = black_box((_mm512_cvtne2ps_pbh(half, half), _mm512_cvtne2ps_pbh(half, half)));
        let mut sums = black_box([_mm512_setzero_ps(); WIDE]);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_512() {
        let (a, b) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(1)));
        let mut sums = black_box([_mm512_setzero_si512(); WIDE]);
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }
}
