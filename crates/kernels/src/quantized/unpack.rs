//! Unpacking of codes to levels and values.

use std::ops::Range;

use half::bf16;

use super::format::{BLOCK, Mode, mxfp4_level};
use super::rows::{Codes, Group, QuantizedRows};
use super::widen::DOUBLED_E4M3;
use crate::gemm::Rows;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};

/// Columns unpacked at once, on the stack.
const RUN: usize = 256;

impl QuantizedRows<'_> {
    /// Writes the levels of `columns` of `row`; both ends lie on a whole block of columns.
    pub(super) fn read_levels(&self, isa: Isa, row: usize, columns: Range<usize>, levels: &mut [u8]) {
        assert!(
            columns.start.is_multiple_of(BLOCK)
                && columns.end.is_multiple_of(BLOCK)
                && columns.len() == levels.len()
        );
        if let Codes::Sparse(codes) = self.codes() {
            return codes.read(isa, row, columns, levels);
        }
        let bits = self.format.bits();
        let words = &self.row_words(row)[columns.start / BLOCK * bits..columns.end / BLOCK * bits];
        match bits {
            2 => unpack(isa, Bits::<2>, words, levels),
            3 => unpack(isa, Bits::<3>, words, levels),
            4 => unpack_4(isa, words, levels),
            5 => unpack(isa, Bits::<5>, words, levels),
            6 => unpack(isa, Bits::<6>, words, levels),
            _ => levels.copy_from_slice(bytemuck::cast_slice(words)),
        }
        if self.format.is_e2m1() {
            code_to_level(isa, levels);
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn has_fast_path(&self, isa: Isa, columns: &Range<usize>) -> bool {
        let whole = columns.start.is_multiple_of(BLOCK) && columns.end.is_multiple_of(BLOCK);
        isa >= Isa::Avx512 && self.code_bits() == 4 && self.format.group_size() >= BLOCK && whole
    }

    /// Calls `write` with the levels of each part of `columns` that lies in one group, the group and
    /// the part's place in `columns`.
    fn parts(
        &self,
        isa: Isa,
        row: usize,
        columns: Range<usize>,
        mut write: impl FnMut(&[u8], Group, Range<usize>),
    ) {
        assert!(row < self.rows && columns.end <= self.columns, "row {row}, columns {columns:?}");
        let size = self.format.group_size();
        let mut levels = [0; RUN];
        let mut next = columns.start;
        while next < columns.end {
            let first = next / BLOCK * BLOCK;
            let run = first..columns.end.next_multiple_of(BLOCK).min(first + RUN);
            self.read_levels(isa, row, run.clone(), &mut levels[..run.len()]);
            while next < run.end.min(columns.end) {
                let end = (next / size * size + size).min(run.end).min(columns.end);
                let group = self.group(row * self.groups() + next / size);
                let place = next - columns.start..end - columns.start;
                write(&levels[next - first..end - first], group, place);
                next = end;
            }
        }
    }
}

impl Rows for QuantizedRows<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.has_fast_path(isa, &columns) {
            return super::unpack_avx512::read(self, row, columns, wide);
        }
        let looked_up = self.format.mode() == Mode::Mxfp8;
        self.parts(isa, row, columns, |levels, group, place| {
            if looked_up {
                look_up(levels, group, &mut wide[place]);
            } else {
                scale(isa, levels, group, &mut wide[place]);
            }
        });
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if self.has_fast_path(isa, &columns) {
            return super::unpack_avx512::read(self, row, columns, narrow);
        }
        let looked_up = self.format.mode() == Mode::Mxfp8;
        self.parts(isa, row, columns, |levels, group, place| {
            if looked_up {
                look_up(levels, group, &mut narrow[place]);
            } else {
                scale_bf16(isa, levels, group, &mut narrow[place]);
            }
        });
    }
}

/// Writes the numbers that `codes` of mxfp8 stand for.
fn look_up<T: Element>(codes: &[u8], group: Group, out: &mut [T]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = T::from_f32(group.scale * DOUBLED_E4M3[usize::from(code)]);
    }
}

/// A number of bits as a type.
struct Bits<const BITS: usize>;

trait Packing {
    /// Bits per code.
    const BITS: usize;
}

impl<const BITS: usize> Packing for Bits<BITS> {
    const BITS: usize = BITS;
}

/// Moves eight neighbouring codes of `bits` bits to the eight bytes.
#[inline(always)]
#[allow(clippy::inline_always)]
fn spread(codes: u64, bits: usize) -> u64 {
    let halve = |x: u64, count: usize, mask: u64, width: usize| {
        // `count` codes stay, as many go up to the next `width` bits.
        (x & mask) | ((x << (width - count * bits)) & (mask << width))
    };
    let ones = |count: usize| (1_u64 << (count * bits)) - 1;
    let x = halve(codes, 4, ones(4), 32);
    let x = halve(x, 2, ones(2) | ones(2) << 32, 16);
    halve(x, 1, ones(1) * 0x0001_0001_0001_0001, 8)
}

vectorized! {
    fn unpack<B: Packing>(_packing: B, words: &[u32], levels: &mut [u8]) {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let mut eights = [0_u64; RUN / 8];
        for (levels, bytes) in levels.chunks_mut(RUN).zip(bytes.chunks(RUN / 8 * B::BITS)) {
            let count = levels.len() / 8;
            // Loads of eight bytes, of which the last ones would reach beyond the end.
            let whole = bytes.len().saturating_sub(8 - B::BITS) / B::BITS;
            for (i, eight) in eights[..whole.min(count)].iter_mut().enumerate() {
                let mut load = [0; 8];
                load.copy_from_slice(&bytes[i * B::BITS..][..8]);
                *eight = u64::from_le_bytes(load);
            }
            for i in whole..count {
                let mut load = [0; 8];
                load[..B::BITS].copy_from_slice(&bytes[i * B::BITS..][..B::BITS]);
                eights[i] = u64::from_le_bytes(load);
            }
            for (levels, &codes) in levels.chunks_exact_mut(8).zip(&eights) {
                levels.copy_from_slice(&spread(codes, B::BITS).to_le_bytes());
            }
        }
    }

    fn unpack_4(words: &[u32], levels: &mut [u8]) {
        for (levels, &word) in levels.chunks_exact_mut(8).zip(words) {
            levels.copy_from_slice(&spread(u64::from(word), 4).to_le_bytes());
        }
    }

    fn code_to_level(levels: &mut [u8]) {
        for level in levels {
            *level = mxfp4_level(*level);
        }
    }

    fn scale(levels: &[u8], group: Group, wide: &mut [f32]) {
        assert_eq!(levels.len(), wide.len());
        for (wide, &level) in wide.iter_mut().zip(levels) {
            *wide = group.scale * (f32::from(level) - f32::from(group.zero)) + group.bias;
        }
    }

    fn scale_bf16(levels: &[u8], group: Group, narrow: &mut [bf16]) {
        assert_eq!(levels.len(), narrow.len());
        for (narrow, &level) in narrow.iter_mut().zip(levels) {
            let wide = group.scale * (f32::from(level) - f32::from(group.zero)) + group.bias;
            *narrow = Element::from_f32(wide);
        }
    }
}
