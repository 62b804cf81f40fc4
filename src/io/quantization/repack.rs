//! Conversion of GPTQ and AWQ weights to MLX's layout.
//!
//! Both formats store `scale·(code − zero)` with one scale and zero point per group of input features; MLX
//! stores `scale·code + bias`, hence `bias = −scale·zero`. The codes are the same numbers in a different
//! order:
//!
//! | tensor | GPTQ | AWQ | MLX |
//! |---|---|---|---|
//! | codes | `qweight` `[in·bits/32, out]` | `qweight` `[in, out/8]` | `weight` `[out, in·bits/32]` |
//! | zeros | `qzeros` `[groups, out·bits/32]` | `qzeros` `[groups, out/8]` | `biases` `[out, groups]` |
//! | scales | `scales` `[groups, out]` | `scales` `[groups, out]` | `scales` `[out, groups]` |
//!
//! A 32-bit word holds codes from the lowest bit up; AWQ permutes the eight codes of a word. Sources:
//! [GPTQ](https://arxiv.org/abs/2210.17323), [AWQ](https://arxiv.org/abs/2306.00978) and the checkpoints
//! written by `AutoGPTQ` and `AutoAWQ`.
//!
//! `GPTQModel` gives layers other bits and groups, or none, by patterns over their names (`dynamic`). The shapes of
//! the tensors say the same, so that no pattern is read.

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use super::gptq_awq::{GptqAwqConfig, PackingMethod, mlx_format};
use crate::kernels::quantized::Format;
use crate::params::Tensors;
use crate::{Error, Result, kernels, threads};

/// Position within a word of AWQ of the code of the n-th output feature.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Output features transposed together, so that each cache line is read once.
const TILE: usize = 16;

/// Converted tensors, and the formats of the layers that stay quantized.
#[derive(Default)]
pub(in crate::io) struct Repacked {
    pub(in crate::io) tensors: Tensors,
    pub(in crate::io) formats: BTreeMap<String, Format>,
}

/// Converts every complete matrix in `found` to MLX's `weight`, `scales` and `biases`. Tensors of a matrix
/// with parts missing, which may be in the next file, are left in `found`; `stored` are the names of all tensors of
/// the checkpoint.
///
/// # Errors
/// Tensors with inconsistent shapes or unexpected dtypes, by name.
pub(in crate::io) fn repack(
    found: &mut Tensors,
    stored: &BTreeSet<String>,
    config: &GptqAwqConfig,
) -> Result<Repacked> {
    threads::start()?;
    let mut ready = Repacked::default();
    let layers: Vec<String> =
        found.keys().filter_map(|name| Some(name.strip_suffix(".qweight")?.to_owned())).collect();
    for layer in &layers {
        let name = |part: &str| format!("{layer}.{part}");
        let ordered = matches!(config.method, PackingMethod::Gptq { act_order: true, .. });
        let has_order = ordered || stored.contains(&name("g_idx"));
        let needs = ["qweight", "qzeros", "scales"].into_iter().chain(has_order.then_some("g_idx"));
        if !needs.into_iter().all(|part| found.contains_key(&name(part))) {
            continue;
        }
        let mut take = |part: &str| found.remove(&name(part));
        let (codes, zeros, scales) = (take("qweight"), take("qzeros"), take("scales"));
        let (Some(codes), Some(zeros), Some(scales)) = (codes, zeros, scales) else { continue };
        let order = take("g_idx");
        let matrix = Matrix { codes, zeros, scales, order };
        let (parts, format) = matrix
            .read(config)
            .and_then(|plain| plain.parts())
            .map_err(|why| Error::ModelLoading(format!("\"{layer}.qweight\": {why}")))?;
        ready.formats.extend(format.map(|format| (layer.clone(), format)));
        ready.tensors.extend(parts.into_iter().map(|(part, array)| (name(part), array)));
    }
    let is_part = |name: &str| {
        let (_, part) = name.rsplit_once('.').unwrap_or_default();
        matches!(part, "qweight" | "qzeros" | "scales" | "g_idx")
    };
    let others: Vec<String> = found.keys().filter(|name| !is_part(name)).cloned().collect();
    ready.tensors.extend(others.into_iter().filter_map(|name| found.remove_entry(&name)));
    Ok(ready)
}

type Outcome<T> = std::result::Result<T, String>;

/// Tensors of a layer by the last part of their name.
type Parts = Vec<(&'static str, Array)>;

/// The stored tensors of one layer.
struct Matrix {
    codes: Array,
    zeros: Array,
    scales: Array,
    /// Group of each input feature, if features were sorted before grouping.
    order: Option<Array>,
}

/// The unpacked tensors of one layer.
struct Plain {
    inputs: usize,
    outputs: usize,
    bits: usize,
    /// Input features per group.
    group: usize,
    /// `[in, out]`
    codes: Vec<u8>,
    /// `[groups, out]`
    zeros: Vec<u8>,
    /// `[groups, out]`
    scales: Vec<f32>,
    dtype: Dtype,
    /// Group of each input feature, unless groups are contiguous.
    order: Option<Vec<usize>>,
}

impl Matrix {
    fn read(&self, config: &GptqAwqConfig) -> Outcome<Plain> {
        let dtype = self.scales.dtype();
        let (codes, zeros) = (words(&self.codes, "qweight")?, words(&self.zeros, "qzeros")?);
        let &[groups, outputs] = self.scales.shape() else {
            return Err(format!("\"scales\" has shape {:?}, expected [groups, out]", self.scales.shape()));
        };
        if !matches!(dtype, Dtype::Float16 | Dtype::Bfloat16 | Dtype::Float32) {
            return Err(format!("\"scales\" is {dtype:?}, expected Float16, Bfloat16 or Float32"));
        }
        let (groups, outputs) = (groups as usize, outputs as usize);
        let is_awq = matches!(config.method, PackingMethod::Awq);
        let bits = if is_awq { 4 } else { self.bits(outputs)? };
        let rows = self.codes.dim(0) as usize;
        let inputs = if is_awq { rows } else { rows * 32 / bits };
        let packed = |count: usize| count * bits / 32;
        let expected_codes = if is_awq { [inputs, packed(outputs)] } else { [packed(inputs), outputs] };
        let group = self.group(inputs, groups, config.group_size.unwrap_or(inputs))?;
        let shapes = [
            ("qweight", &self.codes, expected_codes),
            ("qzeros", &self.zeros, [groups, packed(outputs)]),
            ("scales", &self.scales, [inputs.div_ceil(group.max(1)), outputs]),
        ];
        for (name, array, expected) in shapes {
            if !array.shape().iter().map(|&dim| dim as usize).eq(expected) {
                return Err(format!("\"{name}\" has shape {:?}, expected {expected:?}", array.shape()));
            }
        }
        if inputs == 0 || outputs == 0 || !(outputs * bits).is_multiple_of(32) {
            return Err(format!(
                "{inputs} inputs and {outputs} outputs cannot be packed in words of 32 bits"
            ));
        }
        let scales = self.scales.as_dtype(Dtype::Float32).map_err(|error| error.what().to_owned())?;
        kernels::eval([&scales]).map_err(|error| error.to_string())?;
        let (codes, zeros) = match config.method {
            PackingMethod::Awq => (unpack_awq(codes, outputs), unpack_awq(zeros, outputs)),
            PackingMethod::Gptq { zero_offset, .. } => {
                let mut zeros = unpack_rows(zeros, groups, outputs, bits);
                for zero in &mut zeros {
                    *zero += zero_offset;
                }
                (unpack_columns(codes, inputs, outputs, bits), zeros)
            }
        };
        Ok(Plain {
            inputs,
            outputs,
            bits,
            group,
            codes,
            zeros,
            scales: scales.as_slice::<f32>().to_vec(),
            dtype,
            order: self.order(inputs, groups, group)?,
        })
    }

    /// Bits per weight, as the zeros of `outputs` columns are packed.
    fn bits(&self, outputs: usize) -> Outcome<usize> {
        let width = self.zeros.shape().last().map_or(0, |&width| width as usize);
        let fits = |bits: &usize| outputs > 0 && width * 32 == outputs * bits;
        [2, 3, 4, 8].into_iter().find(fits).ok_or_else(|| {
            let shape = self.zeros.shape();
            format!("\"qzeros\" has shape {shape:?}, which is not {outputs} columns of 2, 3, 4 or 8 bits")
        })
    }

    /// Input features per group: `configured`, unless there are too many or too few scales for it.
    fn group(&self, inputs: usize, groups: usize, configured: usize) -> Outcome<usize> {
        let fits = |group: &usize| *group > 0 && inputs.div_ceil(*group) == groups;
        let counted = match &self.order {
            Some(order) => words(order, "g_idx")?.iter().filter(|&&group| group == 0).count(),
            None => 0,
        };
        let even = (groups > 0 && inputs.is_multiple_of(groups)).then(|| inputs / groups);
        let found = [Some(counted), Some(configured), even].into_iter().flatten().find(fits);
        found.ok_or_else(|| {
            format!(
                "\"scales\" has shape {:?}, which is not one row per group of {inputs} inputs",
                self.scales.shape()
            )
        })
    }

    /// Group of each input feature; `None` if groups are contiguous, as in MLX.
    fn order(&self, inputs: usize, groups: usize, group: usize) -> Outcome<Option<Vec<usize>>> {
        let Some(order) = &self.order else { return Ok(None) };
        let order = words(order, "g_idx")?;
        let order: Vec<usize> = order.iter().map(|&group| group as usize).collect();
        if order.len() != inputs || order.iter().any(|&group| group >= groups) {
            return Err(format!(
                "\"g_idx\" must name one of {groups} groups for each of {inputs} inputs, it has {} numbers",
                order.len()
            ));
        }
        let neighbours = order.iter().enumerate().all(|(input, &found)| found == input / group);
        Ok((!neighbours).then_some(order))
    }
}

impl Plain {
    /// Returns the tensors of the layer, and their format if they are quantized.
    fn parts(&self) -> Outcome<(Parts, Option<Format>)> {
        let format = match self.order {
            None => mlx_format(self.bits, self.group),
            Some(_) => None,
        };
        let format = format.filter(|format| self.inputs.is_multiple_of(format.group_size()));
        let parts = match format {
            Some(format) => self.packed(format.group_size()),
            None => self.dense(),
        };
        Ok((parts.map_err(|error| error.what().to_owned())?, format))
    }

    /// Transposes and repacks the codes, splitting groups into groups of `group` input features.
    fn packed(&self, group: usize) -> crate::nn::Result<Parts> {
        let Self { inputs, outputs, bits, group: from, .. } = *self;
        let width = inputs * bits / 32;
        let mut words = vec![0_u32; outputs * width];
        words.par_chunks_mut(TILE * width).enumerate().for_each(|(tile, words)| {
            for input in 0..inputs {
                let (word, shift) = (input * bits / 32, input * bits % 32);
                let first = input * outputs + tile * TILE;
                for (row, words) in words.chunks_mut(width).enumerate() {
                    let code = u64::from(self.codes[first + row]) << shift;
                    words[word] |= code as u32;
                    if shift + bits > 32 {
                        words[word + 1] |= (code >> 32) as u32;
                    }
                }
            }
        });
        let groups = inputs / group;
        let at = |output: usize, index: usize| (index * group / from) * outputs + output;
        let turned = |value: &dyn Fn(usize) -> f32| -> crate::nn::Result<Array> {
            let values: Vec<f32> = (0..outputs)
                .flat_map(|output| (0..groups).map(move |index| (output, index)))
                .map(|(output, index)| value(at(output, index)))
                .collect();
            Array::from_slice(&values, &[outputs as i32, groups as i32]).as_dtype(self.dtype)
        };
        Ok(vec![
            ("weight", Array::from_slice(&words, &[outputs as i32, width as i32])),
            ("scales", turned(&|i| self.scales[i])?),
            ("biases", turned(&|i| -self.scales[i] * f32::from(self.zeros[i]))?),
        ])
    }

    /// Dequantizes the weights, for groups that MLX cannot represent.
    fn dense(&self) -> crate::nn::Result<Parts> {
        let Self { inputs, outputs, group: from, .. } = *self;
        let order = self.order.as_deref();
        let mut weights = vec![0.0_f32; outputs * inputs];
        weights.par_chunks_mut(inputs).enumerate().for_each(|(output, row)| {
            for (input, weight) in row.iter_mut().enumerate() {
                let group = order.map_or(input / from, |order| order[input]);
                let at = group * outputs + output;
                let code = f32::from(self.codes[input * outputs + output]);
                *weight = self.scales[at] * (code - f32::from(self.zeros[at]));
            }
        });
        let weights = Array::from_slice(&weights, &[outputs as i32, inputs as i32]);
        Ok(vec![("weight", weights.as_dtype(self.dtype)?)])
    }
}

/// Returns the 32-bit words of `array`.
fn words<'a>(array: &'a Array, name: &str) -> Outcome<&'a [i32]> {
    match array.dtype() {
        Dtype::Int32 => Ok(array.as_slice::<i32>()),
        other => Err(format!("\"{name}\" is {other:?}, expected Int32")),
    }
}

/// Code number `index` in a stream of codes that starts at the lowest bit of `word(0)`.
fn code(word: impl Fn(usize) -> i32, index: usize, bits: usize) -> u8 {
    let (at, shift) = (index * bits / 32, index * bits % 32);
    let mut pair = u64::from(word(at).cast_unsigned());
    if shift + bits > 32 {
        pair |= u64::from(word(at + 1).cast_unsigned()) << 32;
    }
    (pair >> shift) as u8 & ((1_u16 << bits) - 1) as u8
}

/// Unpacks words along rows: `[rows·bits/32, columns]` → codes `[rows, columns]`.
fn unpack_columns(words: &[i32], rows: usize, columns: usize, bits: usize) -> Vec<u8> {
    let mut codes = vec![0; rows * columns];
    codes.par_chunks_mut(columns).enumerate().for_each(|(row, codes)| {
        for (column, found) in codes.iter_mut().enumerate() {
            *found = code(|word| words[word * columns + column], row, bits);
        }
    });
    codes
}

/// Unpacks words along columns: `[rows, columns·bits/32]` → codes `[rows, columns]`.
fn unpack_rows(words: &[i32], rows: usize, columns: usize, bits: usize) -> Vec<u8> {
    let width = columns * bits / 32;
    let mut codes = vec![0; rows * columns];
    for (codes, words) in codes.chunks_mut(columns).zip(words.chunks(width)) {
        for (column, found) in codes.iter_mut().enumerate() {
            *found = code(|word| words[word], column, bits);
        }
    }
    codes
}

/// Unpacks AWQ's words: `[rows, columns/8]` → codes `[rows, columns]`.
fn unpack_awq(words: &[i32], columns: usize) -> Vec<u8> {
    let rows = words.len() * 8 / columns;
    let mut codes = vec![0; rows * columns];
    codes.par_chunks_mut(8).zip(words).for_each(|(codes, &word)| {
        for (found, from) in codes.iter_mut().zip(AWQ_ORDER) {
            *found = (word.cast_unsigned() >> (4 * from)) as u8 & 15;
        }
    });
    codes
}
