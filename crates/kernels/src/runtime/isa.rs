//! Which instruction set a kernel uses.
//!
//! Every kernel takes an [`Isa`] as an argument, so that a test can force each level; operations of
//! the graph pass [`Isa::current`].

use std::sync::OnceLock;

/// Instruction sets with kernels of their own, each with all before it on the same processor family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has; on Arm that includes NEON.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// And VNNI: products of bytes.
    Avx512Vnni,
    /// And BF16: products of bfloat16.
    Avx512Bf16,
}

/// Name of the variable that lowers the level, for comparing and for finding faults.
pub(crate) const VARIABLE: &str = "EAT_ISA";

impl Isa {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni, Self::Avx512Bf16];

    /// The highest level of this processor.
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

    /// The level of this process: what the processor has, or less if `EAT_ISA` names less.
    #[must_use]
    pub fn current() -> Self {
        static CURRENT: OnceLock<Isa> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let highest = Self::detect();
            let Ok(wanted) = std::env::var(VARIABLE) else { return highest };
            if let Some(level) = Self::ALL.into_iter().find(|level| level.name() == wanted) {
                return level.min(highest);
            }
            let names = Self::ALL.map(Self::name).join(", ");
            log::warn!("{VARIABLE} is \"{wanted}\", expected one of {names}; it is ignored");
            highest
        })
    }

    /// The levels this processor can run, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|&level| level <= Self::detect())
    }

    /// As `EAT_ISA` spells it.
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

/// Defines functions that are compiled once per instruction set from one portable body, and take the
/// [`Isa`] as their first argument. The compiler vectorises the body: write it as loops over slices.
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
/// Asks for memory that is read soon.
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
