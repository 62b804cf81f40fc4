//! Activations prepared for products with quantized weights.
//!
//! With weights `scale·level + bias`, a product is `Σ scale·(Σ level·x) + Σ bias·(Σ x)` over the groups. The
//! sums of x are the same for every row of weights and are computed here, once.

use half::bf16;

use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::scratch::{self, Scratch};

/// Maximum number of columns that share an activation scale.
pub(super) const MAX_GROUP_SIZE: usize = 64;

/// Activations quantized to int8, symmetrically, with one scale per group.
pub(super) struct Int8 {
    /// `[rows, columns]`
    pub codes: Scratch<i8>,
    /// `[rows, groups]`
    pub scales: Scratch<f32>,
    /// Sums of what the codes stand for: `[rows, groups]`
    pub sums: Scratch<f32>,
}

impl Int8 {
    /// Rounds rows of `columns` numbers in groups of `group`.
    pub(super) fn of(isa: Isa, x: &[f32], group: usize) -> Self {
        let groups = x.len() / group;
        let (mut codes, mut scales, mut sums) =
            (scratch::take(x.len()), scratch::take(groups), scratch::take(groups));
        Self::write(isa, x, group, &mut codes, &mut scales, &mut sums);
        Self { codes, scales, sums }
    }

    /// The same for a part of the rows, whose places are given.
    pub(super) fn write(
        isa: Isa,
        x: &[f32],
        group: usize,
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [f32],
    ) {
        match group {
            32 => quantize_groups(isa, Group::<32>, x, codes, scales, sums),
            _ => quantize_groups(isa, Group::<64>, x, codes, scales, sums),
        }
    }
}

/// Codes in the order in which registers of packed weights hold their columns, in units of such registers.
pub(super) struct Ordered {
    pub rows: usize,
    /// Words of a unit of one row: the codes, then the scale of each lane.
    pub unit: usize,
    /// `[rows, units, unit]`
    pub words: Scratch<u32>,
}

impl Ordered {
    /// Lane i gets columns `lane·i` and following: of 8, the even ones in the first register and the odd
    /// ones in the second.
    pub(super) fn of(
        isa: Isa,
        x: &Int8,
        columns: usize,
        group: usize,
        (lane, lanes): (usize, usize),
    ) -> Self {
        let registers = lane / 4;
        let unit = (registers + 1) * lanes;
        let (rows, units) = (x.codes.len() / columns, columns.div_ceil(lane * lanes));
        let mut words = scratch::take::<u32>(rows * units * unit);
        let of_rows = x.codes.chunks_exact(columns).zip(x.scales.chunks_exact(columns / group));
        for (words, (codes, scales)) in words.chunks_exact_mut(units * unit).zip(of_rows) {
            Self::write(isa, codes, scales, group, (lane, lanes), words);
        }
        Self { rows, unit, words }
    }

    /// The same for one row.
    pub(super) fn write(
        isa: Isa,
        codes: &[i8],
        scales: &[f32],
        group: usize,
        (lane, lanes): (usize, usize),
        words: &mut [u32],
    ) {
        let registers = lane / 4;
        words.fill(0);
        let parts = words.chunks_exact_mut((registers + 1) * lanes).zip(codes.chunks(lane * lanes));
        for (u, (unit, codes)) in parts.enumerate() {
            let (ordered, of_lanes) = unit.split_at_mut(registers * lanes);
            order(isa, codes, registers, bytemuck::cast_slice_mut(ordered));
            let scales = &scales[u * lanes * lane / group..];
            for (of_lanes, scale) in of_lanes.chunks_mut(group / lane).zip(scales) {
                of_lanes.fill(scale.to_bits());
            }
        }
    }
}

/// A size of groups as a type: loops of known length vectorise best.
pub(super) struct Group<const SIZE: usize>;

pub(super) trait Size {
    /// Columns of a group.
    const SIZE: usize;
}

impl<const SIZE: usize> Size for Group<SIZE> {
    const SIZE: usize = SIZE;
}

/// Lanes of a sum.
const LANES: usize = 16;

vectorized! {
    fn quantize_groups<G: Size>(
        _group: G,
        x: &[f32],
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [f32],
    ) {
        let groups = x.chunks_exact(G::SIZE).zip(codes.chunks_exact_mut(G::SIZE));
        for ((x, codes), (scale, sum)) in groups.zip(scales.iter_mut().zip(sums)) {
            let mut most = [0.0_f32; LANES];
            for x in x.chunks_exact(LANES) {
                for (most, x) in most.iter_mut().zip(x) {
                    *most = if x.abs() > *most { x.abs() } else { *most };
                }
            }
            let most = most.iter().fold(0.0_f32, |a, &b| a.max(b));
            *scale = most / 127.0;
            // Scales too small to invert stand for zeros.
            let inverse = if *scale > f32::MIN_POSITIVE { 1.0 / *scale } else { 0.0 };
            let mut total = [0_i32; LANES];
            for (x, codes) in x.chunks_exact(LANES).zip(codes.chunks_exact_mut(LANES)) {
                for ((total, x), code) in total.iter_mut().zip(x).zip(codes) {
                    /// Adding and subtracting it rounds to an integer.
                    const ROUND: f32 = 12_582_912.0;
                    let rounded = (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
                    *code = rounded as i8;
                    *total += rounded;
                }
            }
            *sum = *scale * total.iter().sum::<i32>() as f32;
        }
    }

    /// Writes the codes of a unit to its registers, one or two.
    fn order(codes: &[i8], registers: usize, bytes: &mut [i8]) {
        if registers == 1 {
            return bytes[..codes.len()].copy_from_slice(codes);
        }
        let (even, odd) = bytes.split_at_mut(bytes.len() / 2);
        for (pair, (even, odd)) in codes.as_chunks::<2>().0.iter().zip(even.iter_mut().zip(odd)) {
            [*even, *odd] = *pair;
        }
    }

    /// Sums of groups of `group` columns, a multiple of 32.
    pub(super) fn sum_groups(x: &[f32], group: usize, sums: &mut [f32]) {
        for (x, sum) in x.chunks_exact(group).zip(sums) {
            let mut total = [0.0_f32; LANES];
            for x in x.chunks_exact(LANES) {
                for (total, x) in total.iter_mut().zip(x) {
                    *total += x;
                }
            }
            *sum = total.iter().sum();
        }
    }

    /// Rounds to bf16 and back.
    pub(super) fn round_bf16(x: &mut [f32]) {
        for x in x {
            let rounded: bf16 = Element::from_f32(*x);
            *x = Element::to_f32(rounded);
        }
    }
}
