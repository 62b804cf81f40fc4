//! The tensors of a file: where they come from, and how their numbers are stored.

use mlx_rs::Dtype;

use super::file_type::FileType;
use super::mixture;
use super::parameters::{Packed, Parameter, Values, floats};
use crate::io::gguf::architecture::{Architecture, Change, Heads, stored_row};
use crate::io::gguf::encode::{AffineGroups, encode, encode_affine, encode_mxfp4};
use crate::io::gguf::{NewTensor, TensorType};
use crate::kernels::quantized::Mode;
use crate::{Error, Result, kernels};

/// A tensor and the parameter that it holds.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) info: NewTensor,
    pub(super) source: Parameter,
    change: Change,
    /// Whether the codes of the parameter are stored as they are.
    pub(super) is_exact: bool,
}

/// Heads of a model, whose rows are stored in another order.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadCounts {
    pub(super) queries: usize,
    pub(super) keys: usize,
}

/// Lists the tensors of a file of type `file` with these `parameters`, in the order of the layers.
///
/// # Errors
/// A parameter that the architecture does not have there.
pub(super) fn plan(
    parameters: Vec<Parameter>,
    architecture: &Architecture,
    file: FileType,
    is_calibrated: bool,
) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for source in parameters {
        let name = architecture.tensor_name(&source.name).ok_or_else(|| {
            Error::Config(format!(
                "\"{}\" has no place in a GGUF file of architecture {}: the format cannot express this model",
                source.name, architecture.name
            ))
        })?;
        let change = architecture.change(&source.name);
        let shape = match (change, source.shape.as_slice()) {
            (Change::Squeezed, [rows, 1, taps]) => vec![*rows, *taps],
            (_, shape) => shape.to_vec(),
        };
        let info = NewTensor { name, shape, kind: TensorType::F32 };
        tensors.push(Tensor { info, source, change, is_exact: false });
    }
    tensors.sort_by_cached_key(|tensor| place(&tensor.info.name));
    let is_tied = !tensors.iter().any(|tensor| tensor.info.name == "output.weight");
    let layers =
        tensors.iter().filter_map(|tensor| layer(&tensor.info.name)).max().map_or(0, |last| last + 1);
    let model = mixture::Model { file, layers, is_tied, is_calibrated };
    for tensor in &mut tensors {
        tensor.choose(model)?;
    }
    Ok(tensors)
}

/// `blk.3.attn_v.weight` → 3
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Embeddings first, then the layers, then what follows them.
fn place(name: &str) -> (usize, usize, String) {
    let section = if name.starts_with("token_embd.") { 0 } else { 2 };
    layer(name).map_or((section, 0, name.to_owned()), |layer| (1, layer, name.to_owned()))
}

impl Tensor {
    /// Chooses the type.
    fn choose(&mut self, model: mixture::Model) -> Result<()> {
        let NewTensor { name, shape, .. } = &self.info;
        if !mixture::is_matrix(name, shape.len()) {
            return Ok(());
        }
        let columns = shape.last().copied().unwrap_or(1);
        let base = model.file.layout().map(|(base, _)| base);
        let wanted = match base {
            Some(base) => mixture::choose(model, base, name, columns),
            None => closest(&self.source.values, columns),
        };
        let exact = match &self.source.values {
            Values::Packed(packed) => exact_type(packed, base)?,
            _ => None,
        };
        self.is_exact = exact.is_some();
        self.info.kind = exact.unwrap_or(wanted);
        Ok(())
    }

    /// The numbers that are stored, before they are rounded to the type.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn values(&self, heads: HeadCounts) -> Result<Vec<f32>> {
        let mut values = self.source.read()?;
        if self.change == Change::Shifted {
            for value in &mut values {
                *value += 1.0;
            }
        }
        self.reorder(values, heads)
    }

    /// The bytes that are stored; `importance` has a number for each column.
    ///
    /// # Errors
    /// Numbers that the type cannot express; errors from MLX.
    pub(super) fn bytes(&self, heads: HeadCounts, importance: Option<&[f32]>) -> Result<Vec<u8>> {
        let NewTensor { name, shape, kind } = &self.info;
        if let (true, Values::Packed(packed)) = (self.is_exact, &self.source.values) {
            return self.reorder(exact_bytes(packed, *kind)?, heads);
        }
        let columns = shape.last().copied().unwrap_or(1);
        let values = self.values(heads)?;
        encode(*kind, &values, columns, importance).map_err(|error| match error {
            Error::Config(why) => Error::Config(format!("\"{}\" ({name}): {why}", self.source.name)),
            other => other,
        })
    }

    /// Puts rows of queries and keys into the order of the file.
    ///
    /// # Errors
    /// Rows that are not whole heads.
    pub(super) fn reorder<T: Copy>(&self, rows: Vec<T>, heads: HeadCounts) -> Result<Vec<T>> {
        let heads = match self.change {
            Change::Interleaved(Heads::Query) => heads.queries,
            Change::Interleaved(Heads::Key) => heads.keys,
            _ => return Ok(rows),
        };
        let count = self.info.shape[0];
        if heads == 0 || !count.is_multiple_of(2 * heads) {
            let name = &self.source.name;
            return Err(Error::Config(format!("\"{name}\" has {count} rows, which are not {heads} heads")));
        }
        let (head_dim, len) = (count / heads, rows.len() / count);
        let mut stored = rows.clone();
        for (row, values) in rows.chunks_exact(len).enumerate() {
            let place = stored_row(row, head_dim) * len;
            stored[place..place + len].copy_from_slice(values);
        }
        Ok(stored)
    }
}

/// The type that loses least of what is there.
fn closest(values: &Values, columns: usize) -> TensorType {
    let whole_blocks = columns.is_multiple_of(TensorType::Q8_0.block_size());
    match values {
        Values::Dense(array) if array.dtype() == Dtype::Float16 => TensorType::F16,
        Values::Dense(array) if array.dtype() == Dtype::Bfloat16 => TensorType::BF16,
        Values::Dense(_) => TensorType::F32,
        Values::Packed(_) if whole_blocks => TensorType::Q8_0,
        // Numbers of the merged weight are no longer those of the checkpoint.
        Values::Packed(_) | Values::Adapted(_) => TensorType::F16,
    }
}

/// The bytes of a packed weight as `kind`, which holds it as it is.
fn exact_bytes(packed: &Packed, kind: TensorType) -> Result<Vec<u8>> {
    let (codes, scales) = (packed.codes.contiguous()?, packed.scales.contiguous()?);
    kernels::eval([&codes, &scales])?;
    if kind == TensorType::MXFP4 {
        return Ok(encode_mxfp4(codes.as_slice::<u32>(), scales.as_slice::<u8>()));
    }
    let scales = Scales::read(packed)?;
    Ok(encode_affine(kind, scales.groups(packed), codes.as_slice::<u32>()))
}

/// Scales and biases of a packed weight in float32.
struct Scales {
    scales: Vec<f32>,
    biases: Vec<f32>,
}

impl Scales {
    fn read(packed: &Packed) -> Result<Self> {
        let biases = packed.biases.as_ref().map(floats).transpose()?.unwrap_or_default();
        Ok(Self { scales: floats(&packed.scales)?, biases })
    }

    fn groups(&self, packed: &Packed) -> AffineGroups<'_> {
        AffineGroups {
            bits: packed.format.bits(),
            group_size: packed.format.group_size(),
            scales: &self.scales,
            biases: &self.biases,
            columns: packed.scales.dim(1) as usize * packed.format.group_size(),
        }
    }
}

/// The type that holds a packed weight as it is: `base`, or any without one.
fn exact_type(packed: &Packed, base: Option<TensorType>) -> Result<Option<TensorType>> {
    match packed.format.mode() {
        Mode::Affine => {}
        Mode::Mxfp4 if base.is_none() => return Ok(Some(TensorType::MXFP4)),
        Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4 => return Ok(None),
    }
    let scales = Scales::read(packed)?;
    let groups = scales.groups(packed);
    let kinds = [TensorType::Q4_1, TensorType::Q5_1, TensorType::Q8_0];
    Ok(kinds.into_iter().filter(|kind| base.is_none_or(|base| base == *kind)).find(|kind| groups.fit(*kind)))
}
