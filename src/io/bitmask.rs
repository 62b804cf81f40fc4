//! Matrices with many zeros in files, in the format `sparse-bitmask` of
//! [compressed-tensors](https://github.com/vllm-project/compressed-tensors).
//!
//! | tensor | contents |
//! |---|---|
//! | `a.shape` | `[out, in]`, int64 |
//! | `a.bitmask` | `[out, in/8]`, uint8, rounded up: bit `i` of a byte tells whether column `i` of its 8 is not zero |
//! | `a.compressed` | the numbers that are not zero, row by row |
//! | `a.row_offsets` | `[out]`, int64: where the numbers of each row begin |
//!
//! Together they are the matrix `a.weight`. Files are not trusted: everything is compared before the matrix is written.

use half::{bf16, f16};
use mlx_rs::{Array, ArrayElement, Dtype};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::config;
use crate::params::Tensors;
use crate::{Result, kernels};

/// Name of the format.
pub(super) const FORMAT: &str = "sparse-bitmask";

/// The method in whose settings the format is named.
pub(super) const METHOD: &str = "compressed-tensors";

/// Parts of a matrix.
const PARTS: [&str; 4] = ["shape", "bitmask", "compressed", "row_offsets"];

/// Columns of a byte of the mask.
const BYTE: usize = 8;

/// Whether `quantization`, of compressed-tensors, says that matrices are stored in this format and nothing is quantized.
pub(super) fn is_described(quantization: &Value) -> bool {
    let is_quantized = quantization["config_groups"].as_object().is_some_and(|groups| !groups.is_empty());
    config::string(&quantization["sparsity_config"], "format").is_ok_and(|format| format == FORMAT)
        && !is_quantized
}

/// The settings that [`is_described`] knows.
pub(super) fn describe() -> Value {
    json!({
        "quant_method": METHOD,
        "sparsity_config": {"format": FORMAT, "sparsity_structure": "unstructured", "targets": ["Linear"], "ignore": []},
    })
}

/// Replaces each float matrix `a.weight` of `tensors` that becomes smaller by its parts.
///
/// # Errors
/// Errors from MLX.
pub(super) fn compress(tensors: Tensors) -> Result<Tensors> {
    let mut stored = Tensors::new();
    for (name, tensor) in tensors {
        let parts = match name.strip_suffix(".weight") {
            Some(_) if tensor.ndim() == 2 => parts(&tensor)?,
            _ => None,
        };
        match (parts, name.strip_suffix(".weight")) {
            (Some(parts), Some(layer)) => {
                stored.extend(
                    PARTS.iter().zip(parts).map(|(part, tensor)| (format!("{layer}.{part}"), tensor)),
                );
            }
            _ => drop(stored.insert(name, tensor)),
        }
    }
    Ok(stored)
}

/// The parts of a matrix in the order of [`PARTS`]; `None` if they are not smaller.
fn parts(matrix: &Array) -> Result<Option<[Array; 4]>> {
    let matrix = matrix.contiguous()?;
    kernels::eval([&matrix])?;
    let (rows, columns) = (matrix.dim(0), matrix.dim(1));
    macro_rules! of {
        ($element:ty, $zero:expr) => {{
            let numbers = if matrix.size() == 0 { &[][..] } else { matrix.as_slice::<$element>() };
            let Some((bitmask, stored, offsets)) = split(numbers, columns as usize, $zero) else {
                return Ok(None);
            };
            (Array::from_slice(&stored, &[stored.len() as i32]), bitmask, offsets)
        }};
    }
    let (compressed, bitmask, offsets) = match matrix.dtype() {
        Dtype::Float32 => of!(f32, 0.0),
        Dtype::Float16 => of!(f16, f16::ZERO),
        Dtype::Bfloat16 => of!(bf16, bf16::ZERO),
        _ => return Ok(None),
    };
    let shape = Array::from_slice(&[i64::from(rows), i64::from(columns)], &[2]);
    let bitmask = Array::from_slice(&bitmask, &[rows, columns.div_euclid(8) + i32::from(columns % 8 > 0)]);
    let offsets = Array::from_slice(&offsets, &[rows]);
    Ok(Some([shape, bitmask, compressed, offsets]))
}

/// Mask, numbers that are not zero and where rows begin; `None` if they are not smaller.
fn split<T: Copy + PartialEq + Sync>(
    numbers: &[T],
    columns: usize,
    zero: T,
) -> Option<(Vec<u8>, Vec<T>, Vec<i64>)> {
    let nonzeros = numbers.par_iter().filter(|&&x| x != zero).count();
    let rows = numbers.len().checked_div(columns)?;
    let width = columns.div_ceil(BYTE);
    let parts = nonzeros * size_of::<T>() + rows * (width + size_of::<i64>()) + 2 * size_of::<i64>();
    if parts >= size_of_val(numbers) {
        return None;
    }
    let mut bitmask = vec![0; rows * width];
    let (mut stored, mut offsets) = (Vec::with_capacity(nonzeros), Vec::with_capacity(rows));
    for (row, mask) in numbers.chunks_exact(columns).zip(bitmask.chunks_exact_mut(width)) {
        offsets.push(stored.len() as i64);
        for (i, &x) in row.iter().enumerate().filter(|&(_, &x)| x != zero) {
            mask[i / BYTE] |= 1 << (i % BYTE);
            stored.push(x);
        }
    }
    Some((bitmask, stored, offsets))
}

/// Takes all matrices of which every part is among `stored`, and all other tensors, as they are.
///
/// # Errors
/// Parts that do not fit each other, by name.
pub(super) fn decompress(stored: &mut Tensors) -> Result<Tensors, String> {
    let mut tensors = Tensors::new();
    for (name, tensor) in std::mem::take(stored) {
        let is_part = name.rsplit_once('.').is_some_and(|(_, part)| PARTS.contains(&part));
        if is_part {
            stored.insert(name, tensor)
        } else {
            tensors.insert(name, tensor)
        };
    }
    let layers: Vec<String> =
        stored.keys().filter_map(|name| name.strip_suffix(".shape")).map(str::to_owned).collect();
    for layer in layers {
        let names = PARTS.map(|part| format!("{layer}.{part}"));
        if names.iter().all(|name| stored.contains_key(name)) {
            let [shape, bitmask, compressed, offsets] = names.map(|name| stored.remove(&name));
            let (Some(shape), Some(bitmask), Some(compressed), Some(offsets)) =
                (shape, bitmask, compressed, offsets)
            else {
                continue;
            };
            let matrix = join(&shape, &bitmask, &compressed, &offsets)
                .map_err(|why| format!("the sparse matrix \"{layer}\": {why}"))?;
            tensors.insert(format!("{layer}.weight"), matrix);
        }
    }
    Ok(tensors)
}

/// What is missing of matrices of which [`decompress`] left parts.
pub(super) fn missing(left: &str) -> String {
    let layer = left.rsplit_once('.').map_or(left, |(layer, _)| layer);
    format!(
        "\"{left}\" lacks the other parts of its matrix: {}",
        PARTS.map(|part| format!("{layer}.{part}")).join(", ")
    )
}

fn join(shape: &Array, bitmask: &Array, compressed: &Array, offsets: &Array) -> Result<Array, String> {
    let whole = |array: &Array, name: &str| match array.dtype() {
        Dtype::Int64 if array.size() == 0 => Ok(Vec::new()),
        Dtype::Int64 => Ok(array.as_slice::<i64>().to_vec()),
        other => Err(format!("{name} is {other:?}, expected Int64")),
    };
    let sizes = whole(shape, "shape")?;
    let &[rows, columns] = sizes.as_slice() else {
        return Err(format!("shape is {sizes:?}, expected two numbers"));
    };
    let size = |x: i64| i32::try_from(x).ok().filter(|&x| x > 0);
    let (Some(rows), Some(columns)) = (size(rows), size(columns)) else {
        return Err(format!("shape is {sizes:?}, expected two numbers above 0"));
    };
    let width = (columns as usize).div_ceil(BYTE);
    if bitmask.dtype() != Dtype::Uint8 || bitmask.shape() != [rows, width as i32] {
        let (found, dtype) = (bitmask.shape(), bitmask.dtype());
        return Err(format!(
            "bitmask is {dtype:?} {found:?}, expected Uint8 [{rows}, {width}] for shape {sizes:?}"
        ));
    }
    let mask = bitmask.as_slice::<u8>();
    let rest = columns as usize % BYTE;
    if rest > 0 && mask.chunks_exact(width).any(|row| row[width - 1] >> rest != 0) {
        return Err(format!("bitmask has places beyond the {columns} columns"));
    }
    let mut starts = Vec::with_capacity(rows as usize);
    let mut total = 0_usize;
    for row in mask.chunks_exact(width) {
        starts.push(total as i64);
        total += row.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    }
    if compressed.shape() != [total as i32] {
        let found = compressed.shape();
        return Err(format!("compressed has shape {found:?}, but bitmask has {total} places"));
    }
    if whole(offsets, "row_offsets")? != starts {
        return Err("row_offsets are not where the rows of bitmask begin".to_owned());
    }
    let shape = [rows, columns];
    match compressed.dtype() {
        Dtype::Float32 => scatter(numbers::<f32>(compressed), mask, &starts, columns, 0.0)
            .map(|numbers| Array::from_slice(&numbers, &shape)),
        Dtype::Float16 => scatter(numbers::<f16>(compressed), mask, &starts, columns, f16::ZERO)
            .map(|numbers| Array::from_slice(&numbers, &shape)),
        Dtype::Bfloat16 => scatter(numbers::<bf16>(compressed), mask, &starts, columns, bf16::ZERO)
            .map(|numbers| Array::from_slice(&numbers, &shape)),
        other => Err(format!("compressed is {other:?}, expected Float32, Float16 or Bfloat16")),
    }
}

fn numbers<T: ArrayElement>(array: &Array) -> &[T] {
    // MLX has no place of an empty array.
    if array.size() == 0 { &[] } else { array.as_slice() }
}

/// `numbers` at the places of `mask`, whose rows begin at `starts`, and `zero` elsewhere.
fn scatter<T: Copy + Send + Sync>(
    numbers: &[T],
    mask: &[u8],
    starts: &[i64],
    columns: i32,
    zero: T,
) -> Result<Vec<T>, String> {
    let columns = columns as usize;
    let mut matrix = Vec::new();
    matrix.try_reserve_exact(starts.len() * columns).map_err(|error| error.to_string())?;
    matrix.resize(starts.len() * columns, zero);
    let rows = matrix.par_chunks_exact_mut(columns).zip(mask.par_chunks_exact(columns.div_ceil(BYTE)));
    rows.zip(starts).for_each(|((row, mask), &start)| {
        let mut next = numbers[start as usize..].iter();
        let places = (0..columns).filter(|i| mask[i / BYTE] >> (i % BYTE) & 1 == 1);
        places.zip(&mut next).for_each(|(i, &x)| row[i] = x);
    });
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(dtype: Dtype) -> Array {
        let numbers: Vec<f32> =
            (0..7 * 21).map(|i| if i % 3 == 0 && i / 21 != 2 { i as f32 + 1.0 } else { 0.0 }).collect();
        Array::from_slice(&numbers, &[7, 21]).as_dtype(dtype).unwrap()
    }

    fn named(tensors: [(&str, Array); 2]) -> Tensors {
        tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
    }

    #[test]
    fn matrices_come_back_exactly_and_only_those_that_shrink_are_changed() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            // Long enough for the offsets to pay.
            let wide = mlx_rs::ops::concatenate(&vec![matrix(dtype); 8], 1).unwrap();
            let full = Array::ones::<f32>(&[7, 21]).unwrap();
            let tensors = named([("a.weight", wide.clone()), ("b.weight", full)]);
            let mut stored = compress(tensors).unwrap();
            let names: Vec<_> = stored.keys().cloned().collect();
            assert_eq!(names, ["a.bitmask", "a.compressed", "a.row_offsets", "a.shape", "b.weight"]);
            let back = decompress(&mut stored).unwrap();
            assert!(stored.is_empty() && back.len() == 2);
            let equal = back["a.weight"].eq(&wide).unwrap().all(None).unwrap();
            assert!(equal.item_exact::<bool>() && back["a.weight"].dtype() == dtype);
        }
    }

    #[test]
    fn parts_in_another_file_are_waited_for() {
        let wide = mlx_rs::ops::concatenate(&vec![matrix(Dtype::Float32); 8], 1).unwrap();
        let mut stored = compress(named([("a.weight", wide), ("b", Array::from_f32(0.0))])).unwrap();
        let late = stored.remove("a.bitmask").unwrap();
        assert_eq!(decompress(&mut stored).unwrap().len(), 1);
        assert!(missing(stored.keys().next().unwrap()).contains("a.bitmask"));
        stored.insert("a.bitmask".to_owned(), late);
        assert!(decompress(&mut stored).unwrap().contains_key("a.weight"));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let ints = |numbers: &[i64]| Array::from_slice(numbers, &[numbers.len() as i32]);
        let mask = |bytes: &[u8], width: i32| Array::from_slice(bytes, &[bytes.len() as i32 / width, width]);
        let floats = |count: i32| Array::ones::<f32>(&[count]).unwrap();
        let fails = |shape: Array, bitmask: Array, compressed: Array, offsets: Array| {
            join(&shape, &bitmask, &compressed, &offsets).unwrap_err()
        };
        let (shape, good, offsets) = (ints(&[2, 3]), mask(&[0b101, 0b010], 1), ints(&[0, 2]));
        assert!(join(&shape, &good, &floats(3), &offsets).is_ok());
        for (error, part) in [
            (fails(ints(&[2]), good.clone(), floats(3), offsets.clone()), "two numbers"),
            (fails(ints(&[-2, 3]), good.clone(), floats(3), offsets.clone()), "above 0"),
            (fails(ints(&[2, i64::MAX]), good.clone(), floats(3), offsets.clone()), "above 0"),
            (
                fails(ints(&[2, 1 << 30]), good.clone(), floats(3), offsets.clone()),
                "expected Uint8 [2, 134217728]",
            ),
            (fails(shape.clone(), mask(&[0b1001, 0], 1), floats(2), ints(&[0, 2])), "beyond the 3 columns"),
            (fails(shape.clone(), good.clone(), floats(2), offsets.clone()), "3 places"),
            (fails(shape.clone(), good.clone(), floats(3), ints(&[0, 1])), "row_offsets"),
            (
                fails(shape.clone(), good.clone(), ints(&[1, 2, 3]), offsets.clone()),
                "Int64, expected Float32",
            ),
            (fails(floats(2), good, floats(3), offsets), "expected Int64"),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_described_is_known_again_unless_it_is_quantized_too() {
        let mut description = describe();
        assert!(is_described(&description));
        description["config_groups"] = json!({"group_0": {}});
        assert!(!is_described(&description) && !is_described(&json!({"quant_method": METHOD})));
    }
}
