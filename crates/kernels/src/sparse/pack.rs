//! From matrices to packed ones and back.

use mlx_rs::error::Exception;
use mlx_rs::{Array, ArrayElement};

use super::rows::SparseRows;
use crate::bitmask::codes::{SparseCodes, unpack_nibbles};
use crate::bitmask::layout::{Layout, PADDING, Storage, View, WORD};
use crate::error::MlxResult;
use crate::eval;
use crate::quantized::{Format, Mode, PackedWeight, pack};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::element::Element;
use crate::runtime::isa::Isa;
use crate::runtime::pool::parallel_ranges;

/// Rows of a task.
const GRAIN: usize = 16;

pub(super) fn is_packable(format: Format) -> bool {
    format.mode() == Mode::Affine && matches!(format.bits(), 4 | 8)
}

/// The number 0 of either sign is left out, and comes back as 0: a product tells no difference.
pub(super) fn is_zero<T: Element>(x: T) -> bool {
    x.to_f32() == 0.0
}

pub(super) fn row_major(array: &Array) -> MlxResult<Array> {
    let array = array.contiguous()?;
    eval([&array]).map_err(|error| Exception::custom(error.to_string()))?;
    Ok(array)
}

/// Elements of an evaluated array; MLX has no place of an empty one.
pub(super) fn slice<T: ArrayElement>(array: &Array) -> &[T] {
    if array.size() == 0 { &[] } else { array.as_slice() }
}

/// Packs a matrix of floating-point numbers.
pub(super) fn dense<T: Element + ArrayElement>(
    weight: &Array,
    storage: Storage,
) -> MlxResult<(Array, Layout)> {
    let &[rows, columns] = weight.shape() else {
        return Err(Exception::custom(format!("a sparse matrix of shape {:?}", weight.shape())));
    };
    let weight = row_major(weight)?;
    let numbers = slice::<T>(&weight);
    write(storage, (rows as usize, columns as usize), numbers, &[], |_, x| !is_zero(x))
}

/// Packs codes.
pub(super) fn codes(weight: &PackedWeight) -> MlxResult<(Array, Layout)> {
    if !is_packable(weight.format) {
        return Err(Exception::custom(format!("a sparse matrix in the format {:?}", weight.format)));
    }
    let levels = Levels::of(weight, weight.shape()?.0)?;
    let (columns, group) = (levels.columns, weight.format.group_size());
    let rows = levels.codes.len() / columns.max(1);
    let stored = |i: usize, code: u8| code != levels.fill[i / group];
    write(
        Storage::Codes { bits: weight.format.bits(), group_size: group },
        (rows, columns),
        &levels.codes,
        &levels.fill,
        stored,
    )
}

/// The codes of a quantized matrix, one in a byte.
pub(super) struct Levels {
    pub codes: Vec<u8>,
    columns: usize,
    group: usize,
    /// The most frequent code of each group.
    fill: Vec<u8>,
}

impl Levels {
    /// Those of the first `rows` rows.
    pub(super) fn of(weight: &PackedWeight, rows: usize) -> MlxResult<Self> {
        let (_, columns) = weight.shape()?;
        let packed = row_major(weight.codes)?;
        let bytes: &[u8] = bytemuck::cast_slice(slice::<u32>(&packed));
        let mut codes = vec![0; rows * columns];
        let bytes = &bytes[..codes.len() * weight.format.bits() / 8];
        if weight.format.bits() == 8 {
            codes.copy_from_slice(bytes);
        } else {
            unpack_nibbles(Isa::current(), bytes, &mut codes);
        }
        let group = weight.format.group_size();
        let mut fill = vec![0; codes.len() / group];
        parallel_chunks(&mut fill, 1 << 10, |task, fill| {
            for (fill, codes) in fill.iter_mut().zip(codes[(task << 10) * group..].chunks_exact(group)) {
                let mut counts = [0_u16; 256];
                for &code in codes {
                    counts[usize::from(code)] += 1;
                }
                // The first of several, so that the same matrix is always packed the same.
                let most = counts.iter().max().copied().unwrap_or_default();
                *fill = counts.iter().position(|&count| count == most).unwrap_or_default() as u8;
            }
        });
        Ok(Self { codes, columns, group, fill })
    }

    /// Codes that differ from their fill.
    pub(super) fn stored(&self) -> usize {
        let groups = self.codes.chunks_exact(self.group).zip(&self.fill);
        groups.map(|(codes, fill)| codes.iter().filter(|&code| code != fill).count()).sum()
    }
}

/// Packs the `numbers` whose index and value `is_stored` tells.
fn write<T: bytemuck::Pod + Sync>(
    storage: Storage,
    (rows, columns): (usize, usize),
    numbers: &[T],
    fill: &[u8],
    is_stored: impl Fn(usize, T) -> bool + Sync,
) -> MlxResult<(Array, Layout)> {
    let mut counts = vec![0_u32; rows];
    parallel_chunks(&mut counts, GRAIN, |task, counts| {
        for (i, count) in counts.iter_mut().enumerate() {
            let start = (task * GRAIN + i) * columns;
            let row = numbers[start..start + columns].iter().enumerate();
            *count = row.filter(|&(j, &x)| is_stored(start + j, x)).count() as u32;
        }
    });
    let nonzeros = counts.iter().map(|&count| count as usize).sum();
    // Of a row: numbers, or bytes that two share.
    let units = |count: u32| if storage.is_nibbles() { count.div_ceil(2) } else { count } as usize;
    let total: usize = counts.iter().map(|&count| units(count)).sum();
    let bytes = if storage.is_nibbles() { total } else { total * storage.bits() / 8 };
    let layout = Layout { storage, rows, columns, nonzeros, bytes };
    if i32::try_from(layout.len()).is_err() || u32::try_from(total).is_err() {
        return Err(Exception::custom(format!(
            "a matrix of {rows} by {columns} numbers is too large to be packed"
        )));
    }
    let mut data = vec![0_u32; layout.len()];
    let [mask, offsets, fills, values] = layout.sections();
    let mut end = 0;
    for (offset, count) in data[offsets.clone()].iter_mut().zip(counts.iter().map(Some).chain([None])) {
        *offset = end;
        end += count.map_or(0, |&count| units(count) as u32);
    }
    bytemuck::cast_slice_mut::<u32, u8>(&mut data[fills])[..fill.len()].copy_from_slice(fill);
    let places = data[offsets].to_vec();
    let (head, tail) = data.split_at_mut(values.start);
    let masks = Disjoint::new(&mut head[mask]);
    let values = Disjoint::new(bytemuck::cast_slice_mut::<u32, u8>(tail));
    let (words, size) = (layout.words(), if storage.is_nibbles() { 1 } else { size_of::<T>() });
    parallel_ranges(rows, GRAIN, |range| {
        for row in range {
            let place = places[row] as usize * size..places[row + 1] as usize * size;
            // SAFETY: rows do not overlap, neither here nor in the mask.
            let (values, mask) = unsafe { (values.part(place), masks.part(row * words..(row + 1) * words)) };
            let mut stored = 0;
            for (j, &x) in numbers[row * columns..(row + 1) * columns].iter().enumerate() {
                if !is_stored(row * columns + j, x) {
                    continue;
                }
                mask[j / WORD] |= 1 << (j % WORD);
                let bytes = bytemuck::bytes_of(&x);
                if storage.is_nibbles() {
                    values[stored / 2] |= bytes[0] << (stored % 2 * 4);
                } else {
                    values[stored * size..(stored + 1) * size].copy_from_slice(bytes);
                }
                stored += 1;
            }
        }
    });
    debug_assert!(layout.view(&data).numbers.len() >= bytes + PADDING);
    Ok((Array::from_slice(&data, &[data.len() as i32]), layout))
}

/// The floating-point numbers that were packed, row-major.
pub(super) fn unpack<T: Element>(view: View) -> Vec<T> {
    let (rows, columns) = view.layout.shape();
    let mut numbers = vec![T::from_f32(0.0); rows * columns];
    let matrix = SparseRows::<T>::new(view);
    parallel_chunks(&mut numbers, columns.max(1), |row, numbers| {
        matrix.expand(Isa::current(), row, 0..columns, |part| numbers.copy_from_slice(part));
    });
    numbers
}

/// The codes that were packed, in MLX's layout.
pub(super) fn unpack_codes(view: View, format: Format) -> Array {
    let (rows, columns) = view.layout.shape();
    let mut levels = vec![0; rows * columns];
    let matrix = SparseCodes::new(view);
    parallel_chunks(&mut levels, columns.max(1), |row, levels| {
        matrix.read(Isa::current(), row, 0..columns, levels);
    });
    let words = pack(&levels, format.bits());
    Array::from_slice(&words, &[rows as i32, (columns * format.bits() / 32) as i32])
}
