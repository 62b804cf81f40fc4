//! Which matrices of a file stay packed.

use std::collections::BTreeMap;

use super::Architecture;
use crate::io::gguf::{Reader, TensorInfo, packed_format};
use crate::kernels::quantized::Format;

/// What the weights of a file take in memory: bytes of packed matrices, and the count of all other numbers.
#[must_use]
pub fn footprint(reader: &Reader, architecture: &Architecture) -> (u64, u64) {
    let formats = formats(reader, architecture);
    let (mut bytes, mut numbers) = (0, 0);
    for (name, info) in reader.tensors() {
        let count = (info.rows() * info.columns()) as u64;
        let parameter = architecture.parameter_name(name);
        let format = parameter.and_then(|name| formats.get(name.strip_suffix(".weight")?).copied());
        match format {
            // A scale and, in affine formats, a bias of two bytes for each group.
            Some(format) => {
                let group = if format == Format::MXFP4 { 8 } else { 32 };
                bytes += count * format.bits() as u64 / 8 + count / 32 * group / 8;
            }
            None => numbers += count,
        }
    }
    (bytes, numbers)
}

/// Formats of the matrices that stay packed, by the key path of their layer.
#[must_use]
pub(super) fn formats(reader: &Reader, architecture: &Architecture) -> BTreeMap<String, Format> {
    let format = |(name, info): (&String, &TensorInfo)| {
        let parameter = architecture.parameter_name(name)?;
        let layer = parameter.strip_suffix(".weight")?;
        let is_packed = info.shape.len() == 2 && !architecture.change(&parameter).needs_numbers();
        Some((layer.to_owned(), packed_format(info.kind).filter(|_| is_packed)?))
    };
    reader.tensors().iter().filter_map(format).collect()
}
