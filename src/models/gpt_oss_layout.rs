//! Checkpoint layout of the experts of gpt-oss: all experts of a layer in one tensor with interleaved gate
//! and up rows, dense as `[experts, in, out]` or as MXFP4 codes `[experts, out, in]`.

use std::collections::BTreeSet;

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::stack;
use mlx_rs::{Array, Dtype};

use super::checkpoint_layout::NamedTensors;
use super::experts::{split_experts, unstack};
use crate::nn::Result;
use crate::params::Tensors;

/// Maps a tensor of a checkpoint to parameters.
///
/// # Errors
/// A tensor of an unexpected shape.
pub(super) fn map_weight(name: &str, tensor: Array) -> Result<NamedTensors> {
    let Some((path, leaf)) = name.split_once(".experts.") else { return Ok(vec![(name.to_owned(), tensor)]) };
    let (layer, kind) = match leaf.strip_prefix("gate_up_proj").map(|kind| ("gate_up", kind)) {
        Some(found) => found,
        None => match leaf.strip_prefix("down_proj") {
            Some(kind) => ("down", kind),
            // In MLX's layout, or not stacked.
            None => return unstack(name, tensor, "experts", &[]),
        },
    };
    let dimensions = tensor.ndim();
    let (tensor, slot) = match (kind, dimensions) {
        ("", 3) => (tensor.transpose_axes(&[0, 2, 1])?, "weight"),
        ("_bias", 2) => (tensor, "bias"),
        ("_blocks", 4) if tensor.dtype() == Dtype::Uint8 => (codes(&tensor)?, "weight"),
        ("_scales", 3) => (tensor, "scales"),
        (kind, _) if kind.starts_with('.') => return unstack(name, tensor, "experts", &[]),
        _ => return Err(Exception::custom(format!("\"{name}\" has shape {:?}", tensor.shape()))),
    };
    let mut mapped = NamedTensors::new();
    for (i, expert) in split_experts(&tensor)?.into_iter().enumerate() {
        let mut put = |layer: &str, tensor: &Array| {
            mapped.push((format!("{path}.experts.{i}.{layer}.{slot}"), tensor.contiguous()?));
            Ok::<(), Exception>(())
        };
        if layer == "gate_up" {
            let pairs = paired(&expert)?;
            put("gate_proj", &pairs.try_index((.., 0))?)?;
            put("up_proj", &pairs.try_index((.., 1))?)?;
        } else {
            put("down_proj", &expert)?;
        }
    }
    Ok(mapped)
}

/// `[2 · n, ...]` → `[n, 2, ...]`.
fn paired(rows: &Array) -> Result<Array> {
    let mut shape = vec![rows.dim(0) / 2, 2];
    shape.extend(&rows.shape()[1..]);
    rows.reshape(&shape)
}

/// Reinterprets bytes `[experts, out, groups, 16]` as uint32 `[experts, out, groups · 4]`.
fn codes(blocks: &Array) -> Result<Array> {
    blocks.reshape(&[blocks.dim(0), blocks.dim(1), -1])?.view::<u32>()
}

/// Maps dense experts to the stacked tensors of a checkpoint; quantized ones are returned unchanged.
///
/// # Errors
/// Errors from MLX.
pub(super) fn export(mut parameters: Tensors) -> Result<Tensors> {
    let first = ".0.gate_proj.weight";
    let dense = |path: &&str| !parameters.contains_key(&format!("{path}.0.gate_proj.scales"));
    let paths: BTreeSet<String> = parameters
        .keys()
        .filter_map(|name| name.strip_suffix(first))
        .filter(dense)
        .map(str::to_owned)
        .collect();
    for path in paths {
        for (slot, suffix) in [("weight", ""), ("bias", "_bias")] {
            let mut take = |layer: &str| {
                let name = |i: usize| format!("{path}.{i}.{layer}.{slot}");
                let all: Vec<Array> = (0..).map_while(|i| parameters.remove(&name(i))).collect();
                stack(&all, 0)
            };
            let (gate, up, down) = (take("gate_proj")?, take("up_proj")?, take("down_proj")?);
            let mut shape = gate.shape().to_vec();
            shape[1] *= 2;
            let gate_up = stack(&[gate, up], 2)?.reshape(&shape)?;
            for (layer, tensor) in [("gate_up_proj", gate_up), ("down_proj", down)] {
                let tensor = if tensor.ndim() == 3 { tensor.transpose_axes(&[0, 2, 1])? } else { tensor };
                parameters.insert(format!("{path}.{layer}{suffix}"), tensor);
            }
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    fn numbers(shape: &[i32]) -> Array {
        let size: i32 = shape.iter().product();
        Array::arange::<_, f32>(None, size, None).unwrap().reshape(shape).unwrap()
    }

    fn values(array: &Array) -> Vec<f32> {
        let array = array.contiguous().unwrap();
        eval([&array]).unwrap();
        array.as_slice::<f32>().to_vec()
    }

    #[test]
    fn dense_experts_come_apart_and_go_back() {
        // Two experts from 3 numbers to 2 gates and 2 gated ones.
        let stored = Tensors::from([
            ("m.experts.gate_up_proj".to_owned(), numbers(&[2, 3, 4])),
            ("m.experts.gate_up_proj_bias".to_owned(), numbers(&[2, 4])),
            ("m.experts.down_proj".to_owned(), numbers(&[2, 2, 3])),
            ("m.experts.down_proj_bias".to_owned(), numbers(&[2, 3])),
            ("m.router.weight".to_owned(), numbers(&[2, 3])),
        ]);
        let mut mapped = Tensors::new();
        for (name, tensor) in &stored {
            mapped.extend(map_weight(name, tensor.clone()).unwrap());
        }
        assert_eq!(values(&mapped["m.experts.1.gate_proj.weight"]), [12.0, 16.0, 20.0, 14.0, 18.0, 22.0]);
        assert_eq!(values(&mapped["m.experts.0.up_proj.bias"]), [1.0, 3.0]);
        let exported = export(mapped).unwrap();
        assert!(exported.keys().eq(stored.keys()), "{:?}", exported.keys());
        for (name, tensor) in &stored {
            assert_eq!(exported[name].shape(), tensor.shape(), "{name}");
            assert_eq!(values(&exported[name]), values(tensor), "{name}");
        }
    }

    #[test]
    fn packed_rows_keep_their_bits() {
        let bytes: Vec<u8> = (0..64).collect();
        let blocks = Array::from_slice(&bytes, &[1, 4, 1, 16]);
        let mapped = Tensors::from_iter(map_weight("m.experts.gate_up_proj_blocks", blocks).unwrap());
        let up = &mapped["m.experts.0.up_proj.weight"];
        assert_eq!((up.shape(), up.dtype()), (&[2, 4][..], Dtype::Uint32));
        eval([up]).unwrap();
        // The second and the fourth row.
        assert_eq!(up.as_slice::<u32>()[0].to_le_bytes(), [16, 17, 18, 19]);
        assert_eq!(up.as_slice::<u32>()[4].to_le_bytes(), [48, 49, 50, 51]);
    }

    #[test]
    fn stacks_of_mlx_come_apart() {
        let mapped = map_weight("m.experts.down_proj.weight", numbers(&[2, 3, 1])).unwrap();
        assert_eq!(mapped[1].0, "m.experts.1.down_proj.weight");
        assert_eq!(mapped[1].1.shape(), [3, 1]);
    }
}
