//! Stored numbers at their places, with a fill between them.

use super::fill::Fill;
use super::layout::{WORD, count};
use crate::runtime::isa::Isa;
use crate::runtime::scratch::Plain;

/// Whether `isa` and the processor have instructions that expand bytes and halves of words.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_vbmi2(isa: Isa) -> bool {
    // Of the level's processors the first ones had none.
    isa >= Isa::Avx512Vnni
        && std::arch::is_x86_feature_detected!("avx512vbmi2")
        && std::arch::is_x86_feature_detected!("popcnt")
}

/// Numbers of 16 or 32 bits with zeros between them, `[32 · mask]`.
///
/// # Safety
/// Behind as many `numbers` as `mask` has places, there are [`PADDING`](super::layout::PADDING) bytes more.
pub(crate) unsafe fn numbers<T: Plain>(isa: Isa, numbers: &[T], mask: &[u32], out: &mut [T]) {
    assert_eq!(out.len(), mask.len() * WORD);
    #[cfg(target_arch = "x86_64")]
    {
        use super::{expand_avx2, expand_avx512};
        let (from, to) = (numbers.as_ptr(), out.as_mut_ptr());
        // SAFETY: the level of `isa` is the processor's, there is room for every word of the mask, and the caller
        // vouches for the numbers.
        unsafe {
            match size_of::<T>() {
                2 if has_vbmi2(isa) => return expand_avx512::halves(from.cast(), mask, to.cast()),
                2 if isa >= Isa::Avx2 => return expand_avx2::halves(from.cast(), mask, to.cast()),
                4 if isa >= Isa::Avx512 => return expand_avx512::words(from.cast(), mask, to.cast()),
                4 if isa >= Isa::Avx2 => return expand_avx2::words(from.cast(), mask, to.cast()),
                _ => {}
            }
        }
    }
    let _ = isa;
    portable(numbers, mask, |_| T::zeroed(), out);
}

/// Codes with the fill between them, `[32 · mask]`.
///
/// # Safety
/// As [`numbers`].
pub(crate) unsafe fn codes(isa: Isa, codes: &[u8], mask: &[u32], fill: Fill, out: &mut [u8]) {
    assert_eq!(out.len(), mask.len() * WORD);
    #[cfg(target_arch = "x86_64")]
    {
        use super::{expand_avx2, expand_avx512};
        // SAFETY: as above.
        unsafe {
            if has_vbmi2(isa) {
                return expand_avx512::bytes(codes.as_ptr(), mask, fill, out.as_mut_ptr());
            }
            if isa >= Isa::Avx2 {
                return expand_avx2::bytes(codes.as_ptr(), mask, fill, out.as_mut_ptr());
            }
        }
    }
    let _ = isa;
    portable(codes, mask, |word| fill.of(word), out);
}

fn portable<T: Plain>(numbers: &[T], mask: &[u32], fill: impl Fn(usize) -> T, out: &mut [T]) {
    debug_assert!(count(mask) <= numbers.len());
    let mut next = 0;
    for (w, (&word, out)) in mask.iter().zip(out.chunks_exact_mut(WORD)).enumerate() {
        let fill = fill(w);
        for (i, out) in out.iter_mut().enumerate() {
            let is_stored = word >> i & 1 == 1;
            *out = if is_stored { numbers[next] } else { fill };
            next += usize::from(is_stored);
        }
    }
}
