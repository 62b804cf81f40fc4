//! Tensors of a file as arrays, one at a time: matrices in blocks that MLX has too stay packed.
//!
//! | stored | array |
//! |---|---|
//! | `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0` | affine codes of 4, 5 or 8 bits in groups of 32, f16 scales and biases |
//! | `MXFP4` | MLX's `mxfp4` |
//! | `F32`, `F16`, `BF16` | the same numbers |
//! | `Q2_K` to `Q6_K` | numbers of the model |

use half::{bf16, f16};
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;
use safetensors::tensor::TensorView;

use super::architecture::{Architecture, Change, Heads};
use super::decode::{read_affine, read_blocks, reorder_mxfp4, scale_mxfp4};
use super::{Reader, TensorInfo, TensorType, packed_format};
use crate::kernels::quantized::{Format, pack};
use crate::{Error, Result, threads};

/// Bytes that are read and decoded together.
const CHUNK: usize = 1 << 20;

/// Arrays of a tensor, by the last part of their names.
pub type Parts = Vec<(&'static str, Array)>;

/// Heads of an architecture, whose rows are put into the order of transformers.
#[derive(Debug, Clone, Copy)]
pub struct HeadCounts {
    /// Number of heads of queries.
    pub queries: usize,
    /// Number of heads of keys.
    pub keys: usize,
}

impl Reader {
    /// Reads the tensor `name`, which becomes `parameter` of a model of `architecture`. Numbers that no array of MLX can
    /// hold packed get `dtype`, stored ones keep theirs. Returns the format of a packed matrix too.
    ///
    /// # Errors
    /// Errors of the system; a tensor that does not fit its use.
    pub fn array(
        &mut self,
        name: &str,
        parameter: &str,
        architecture: &Architecture,
        heads: HeadCounts,
        dtype: Dtype,
    ) -> Result<(Parts, Option<Format>)> {
        let named = |path: &std::path::Path, why: &str| {
            Error::ModelLoading(format!("{}: tensor \"{name}\": {why}", path.display()))
        };
        let path = self.path().to_owned();
        let Some(info) = self.tensors().get(name).cloned() else {
            return Err(named(&path, "it is not in the file"));
        };
        threads::start()?;
        let change = architecture.change(parameter);
        let is_weight = parameter.ends_with(".weight") && info.shape.len() == 2;
        let format = packed_format(info.kind).filter(|_| is_weight && !change.needs_numbers());
        let parts = match format {
            Some(format) if format == Format::MXFP4 => self.mxfp4(&info)?,
            Some(format) => self.affine(&info, format)?,
            None => vec![("", self.dense(&info, dtype)?)],
        };
        let heads = match change {
            Change::Interleaved(Heads::Query) => heads.queries,
            _ => heads.keys,
        };
        let parts = parts.into_iter().map(|(part, array)| Ok((part, changed(array, change, heads)?)));
        let parts: Parts =
            parts.collect::<std::result::Result<_, String>>().map_err(|why| named(&path, &why))?;
        Ok((parts, format))
    }

    fn dense(&mut self, info: &TensorInfo, dtype: Dtype) -> Result<Array> {
        let dtype = match info.kind {
            TensorType::F32 => Dtype::Float32,
            TensorType::F16 => Dtype::Float16,
            TensorType::BF16 => Dtype::Bfloat16,
            _ => dtype,
        };
        let width = if dtype == Dtype::Float32 { 4 } else { 2 };
        let mut bytes = reserved(info.rows() * info.columns() * width)?;
        if info.kind.is_quantized() {
            let columns = info.columns();
            self.each_chunk(info, |chunk| {
                let start = bytes.len();
                bytes.resize(start + chunk.len() / info.row_bytes() * columns * width, 0);
                let rows = chunk.par_chunks(info.row_bytes());
                rows.zip(bytes[start..].par_chunks_mut(columns * width)).for_each(|(blocks, row)| {
                    let mut values = vec![0.0; columns];
                    read_blocks(info.kind, blocks, &mut values);
                    write_numbers(&values, dtype, row);
                });
            })?;
        } else {
            bytes.resize(info.bytes, 0);
            self.read(info.start, &mut bytes)?;
        }
        let dtype = match dtype {
            Dtype::Float16 => safetensors::Dtype::F16,
            Dtype::Bfloat16 => safetensors::Dtype::BF16,
            _ => safetensors::Dtype::F32,
        };
        let path = self.path().to_owned();
        view(dtype, &info.shape, &bytes)
            .map_err(|why| Error::ModelLoading(format!("{}: {why}", path.display())))
    }

    fn affine(&mut self, info: &TensorInfo, format: Format) -> Result<Parts> {
        let (rows, groups) = (info.rows(), info.columns() / 32);
        let mut codes: Vec<u32> = reserved(rows * groups * format.bits())?;
        let mut numbers: Vec<(f32, f32)> = reserved(rows * groups)?;
        let (bytes, kind) = (info.kind.block_bytes(), info.kind);
        self.each_chunk(info, |chunk| {
            let blocks = chunk.par_chunks_exact(bytes).map(|block| read_affine(kind, block));
            let read: Vec<_> =
                blocks.map(|block| (pack(&block.codes, format.bits()), (block.scale, block.bias))).collect();
            for (words, scale) in read {
                codes.extend(words);
                numbers.push(scale);
            }
        })?;
        let shape = [rows as i32, groups as i32];
        let codes = Array::from_slice(&codes, &[rows as i32, (groups * format.bits()) as i32]);
        let scales = Array::from_slice(&numbers.iter().map(|(scale, _)| *scale).collect::<Vec<_>>(), &shape);
        let biases = Array::from_slice(&numbers.iter().map(|(_, bias)| *bias).collect::<Vec<_>>(), &shape);
        // A bias is up to 128 times the scale, and may be beyond the range of f16.
        let fits = numbers.iter().all(|(_, bias)| f16::from_f32(*bias).to_f32().to_bits() == bias.to_bits());
        let dtype = if fits { Dtype::Float16 } else { Dtype::Float32 };
        Ok(vec![("weight", codes), ("scales", scales.as_dtype(dtype)?), ("biases", biases.as_dtype(dtype)?)])
    }

    fn mxfp4(&mut self, info: &TensorInfo) -> Result<Parts> {
        let (rows, groups) = (info.rows(), info.columns() / 32);
        let mut codes: Vec<u32> = reserved(rows * groups * 4)?;
        let mut scales: Vec<u8> = reserved(rows * groups)?;
        self.each_chunk(info, |chunk| {
            for block in chunk.chunks_exact(info.kind.block_bytes()) {
                codes.extend(reorder_mxfp4(block));
                scales.push(scale_mxfp4(block));
            }
        })?;
        let codes = Array::from_slice(&codes, &[rows as i32, 4 * groups as i32]);
        let scales = Array::from_slice(&scales, &[rows as i32, groups as i32]);
        Ok(vec![("weight", codes), ("scales", scales)])
    }

    /// Calls `take` with the bytes of whole rows, about [`CHUNK`] at a time.
    fn each_chunk(&mut self, info: &TensorInfo, mut take: impl FnMut(&[u8])) -> Result<()> {
        let row = info.row_bytes();
        let most = (CHUNK / row).max(1);
        let mut bytes = reserved(row * most.min(info.rows()))?;
        let mut done = 0;
        while done < info.rows() {
            let rows = most.min(info.rows() - done);
            bytes.resize(rows * row, 0);
            self.read(info.start + (done * row) as u64, &mut bytes)?;
            take(&bytes);
            done += rows;
        }
        Ok(())
    }
}

/// An empty list with room for `count` elements.
fn reserved<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count)
        .map_err(|error| Error::Hardware(format!("a tensor does not fit into memory: {error}")))?;
    Ok(list)
}

fn view(dtype: safetensors::Dtype, shape: &[usize], bytes: &[u8]) -> std::result::Result<Array, String> {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).map_err(|error| error.to_string())?;
    Array::try_from(view).map_err(|error| error.to_string())
}

/// Writes `values` as numbers of `dtype`, in the order of bytes of this machine.
fn write_numbers(values: &[f32], dtype: Dtype, bytes: &mut [u8]) {
    match dtype {
        Dtype::Float16 => {
            for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&f16::from_f32(*value).to_ne_bytes());
            }
        }
        Dtype::Bfloat16 => {
            for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(2)) {
                bytes.copy_from_slice(&bf16::from_f32(*value).to_ne_bytes());
            }
        }
        _ => {
            for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
    }
}

/// Undoes `change` to a stored array with this many heads.
fn changed(array: Array, change: Change, heads: usize) -> std::result::Result<Array, String> {
    let failed = |error: mlx_rs::error::Exception| error.what().to_owned();
    match change {
        Change::Shifted => {
            let numbers = array.as_dtype(Dtype::Float32).map_err(failed)?;
            numbers.subtract(Array::from_f32(1.0)).map_err(failed)
        }
        Change::Squeezed if array.ndim() == 2 => {
            array.reshape(&[array.dim(0), 1, array.dim(1)]).map_err(failed)
        }
        Change::None | Change::Squeezed => Ok(array),
        Change::Interleaved(_) => {
            let rows = array.dim(0) as usize;
            if heads == 0 || !rows.is_multiple_of(2 * heads) {
                return Err(format!("its {rows} rows are not {heads} heads of pairs"));
            }
            let shape = array.shape().to_vec();
            let pairs = [heads as i32, (rows / heads / 2) as i32, 2, -1];
            let swapped = array.reshape(&pairs).and_then(|pairs| pairs.transpose_axes(&[0, 2, 1, 3]));
            swapped.and_then(|array| array.reshape(&shape)).map_err(failed)
        }
    }
}
