//! Instruction sets.
//!
//! Every kernel takes an [`Isa`] as an argument, so that tests can cover each level; graph operations pass
//! [`Isa::current`].

use std::sync::OnceLock;

use super::environment::requested;
use crate::error::Result;

/// Instruction set level; each level includes all lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Baseline of the target architecture; on Arm this includes NEON.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with VNNI: 8-bit integer dot products.
    Avx512Vnni,
    /// AVX-512 with VNNI and BF16: bfloat16 dot products.
    Avx512Bf16,
}

/// Environment variable that lowers the level, for comparison and debugging.
pub(crate) const VARIABLE: &str = "EAT_ISA";

impl Isa {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni, Self::Avx512Bf16];

    /// Highest level supported by this processor.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let levels = [
                has!("avx2") && has!("fma") && has!("f16c"),
                has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"),
                has!("avx512vnni"),
                has!("avx512bf16"),
            ];
            Self::ALL[levels.iter().take_while(|&&level| level).count()]
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Portable
    }

    /// Level used by this process: the highest supported one, or a lower one named by `EAT_ISA`.
    #[must_use]
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let highest = Self::detect();
            Self::requested().ok().flatten().map_or(highest, |level| level.min(highest))
        })
    }

    /// Level named by `EAT_ISA`.
    ///
    /// # Errors
    /// A name that is none of a level.
    pub(crate) fn requested() -> Result<Option<Self>> {
        requested(VARIABLE, Self::parse)
    }

    fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| format!("one of {}", Self::ALL.map(Self::name).join(", ")))
    }

    /// Levels supported by this processor, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|&level| level <= Self::detect())
    }

    /// Name of the level, as in `EAT_ISA`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }
}

/// Defines functions that are compiled once per instruction set from one portable body and take the [`Isa`] as their
/// first argument. The compiler vectorizes the body, which should be loops over slices.
macro_rules! vectorized {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<$generic:ident: $bound:path>)? (
            $($argument:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name $(<$generic: $bound>)? (isa: $crate::runtime::isa::Isa, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::inline_always, clippy::too_many_arguments)]
            fn body $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2 $(<$generic: $bound>)? ($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            match isa {
                #[cfg(target_arch = "x86_64")]
                level if level >= $crate::runtime::isa::Isa::Avx512 => {
                    // SAFETY: an `Isa` of this level exists only where the processor has it.
                    unsafe { avx512($($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::runtime::isa::Isa::Avx2 => {
                    // SAFETY: as above.
                    unsafe { avx2($($argument),*) }
                }
                _ => body($($argument),*),
            }
        }
    )*};
}
pub(crate) use vectorized;

/// Prefetches `numbers` into the second-level cache.
pub(crate) fn prefetch<T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which cannot fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}
