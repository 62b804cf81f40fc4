//! Numbers as the blocks of each tensor type.
//!
//! Every row is encoded on its own. The importance of a column is the mean square of what it is multiplied by: errors
//! count in proportion to it, as with an `imatrix` of llama.cpp. Types that use it: all but the floats and `Q8_0`.

mod affine;
mod fit;
mod k_quants;
mod legacy;
mod mxfp4;
mod packing;

use half::{bf16, f16};
use rayon::prelude::*;

use super::TensorType;
use crate::{Error, Result};

pub use affine::{AffineGroups, encode_affine};
pub use mxfp4::encode_mxfp4;

/// Writes a row as blocks.
type EncodeRow = fn(&[f32], Option<&[f32]>, &mut [u8]);

/// Encodes `values`, rows of `columns` numbers, as `kind`; `importance` has one number for each column.
///
/// # Errors
/// A type that is only read; rows that are not whole blocks; numbers that are not finite or beyond the range of the type.
///
/// # Panics
/// If `values` or `importance` do not fit `columns`.
pub fn encode(
    kind: TensorType,
    values: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
) -> Result<Vec<u8>> {
    let encode_row = encoder(kind)
        .ok_or_else(|| Error::Config(format!("{kind} is read, but not written: choose another type")))?;
    if !columns.is_multiple_of(kind.block_size()) {
        return Err(Error::Config(format!(
            "rows of {columns} numbers are not whole blocks of {}, as {kind} needs",
            kind.block_size()
        )));
    }
    assert!(values.len().is_multiple_of(columns), "rows of another length");
    assert!(importance.is_none_or(|importance| importance.len() == columns), "importance of other columns");
    check_range(kind, values)?;
    let mut bytes = vec![0; values.len() / kind.block_size() * kind.block_bytes()];
    let row_bytes = columns / kind.block_size() * kind.block_bytes();
    bytes
        .par_chunks_exact_mut(row_bytes)
        .zip(values.par_chunks_exact(columns))
        .for_each(|(out, row)| encode_row(row, importance, out));
    Ok(bytes)
}

fn encoder(kind: TensorType) -> Option<EncodeRow> {
    Some(match kind {
        TensorType::F32 => |row, _, out| put(row, out, f32::to_le_bytes),
        TensorType::F16 => |row, _, out| put(row, out, |x| f16::from_f32(x).to_le_bytes()),
        TensorType::BF16 => |row, _, out| put(row, out, |x| bf16::from_f32(x).to_le_bytes()),
        TensorType::Q4_0 => legacy::q4_0,
        TensorType::Q4_1 => legacy::q4_1,
        TensorType::Q5_0 => legacy::q5_0,
        TensorType::Q5_1 => legacy::q5_1,
        TensorType::Q8_0 => legacy::q8_0,
        TensorType::Q4_K => k_quants::q4_k,
        TensorType::Q5_K => k_quants::q5_k,
        TensorType::Q6_K => k_quants::q6_k,
        TensorType::Q2_K | TensorType::Q3_K | TensorType::MXFP4 => return None,
    })
}

fn put<const N: usize>(row: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, &x) in out.chunks_exact_mut(N).zip(row) {
        out.copy_from_slice(&bytes(x));
    }
}

/// Refuses what `kind` would store as infinity: scales are in half precision.
fn check_range(kind: TensorType, values: &[f32]) -> Result<()> {
    let limit = match kind {
        TensorType::F32 => f32::MAX,
        TensorType::BF16 => bf16::MAX.to_f32(),
        _ => f16::MAX.to_f32(),
    };
    let wrong = values.par_iter().find_any(|x| x.is_nan() || x.abs() > limit);
    wrong.map_or(Ok(()), |x| {
        let why = if x.is_finite() { "choose BF16 or F32" } else { "the weights are damaged" };
        Err(Error::Config(format!("it holds {x}, which {kind} cannot express: {why}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_depend_on_each_other() {
        let values: Vec<f32> = (0..3 * 512).map(|i| (i as f32 * 0.37).sin()).collect();
        let importance: Vec<f32> = (0..512).map(|i| 1.0 + (i % 7) as f32).collect();
        for kind in TensorType::ALL {
            let Ok(all) = encode(kind, &values, 512, Some(&importance)) else { continue };
            let alone = encode(kind, &values[512..1024], 512, Some(&importance)).unwrap();
            assert_eq!(all[alone.len()..2 * alone.len()], alone, "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        let message =
            |kind, values: &[f32], columns| encode(kind, values, columns, None).unwrap_err().to_string();
        assert!(message(TensorType::Q4_0, &[0.0; 48], 48).contains("not whole blocks of 32"));
        assert!(message(TensorType::Q3_K, &[0.0; 256], 256).contains("not written"));
        assert!(message(TensorType::F16, &[1e5], 1).contains("BF16 or F32"));
        assert!(message(TensorType::F32, &[f32::NAN], 1).contains("damaged"));
        assert!(encode(TensorType::BF16, &[1e30], 1, None).is_ok());
    }
}
