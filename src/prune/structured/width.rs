//! Removing channels of feed-forward layers, as many in every block, since `config.json` has one number for all.
//!
//! | method | score of a channel |
//! |---|---|
//! | magnitude | `√(‖gate row‖² + ‖up row‖² + ‖down column‖²)` |
//! | activation ([Minitron](https://arxiv.org/abs/2407.14679)) | mean of `\|x\|`, with the channel `x` |
//! | wanda | `√(mean of x²)·‖down column‖`: how much it contributes to the output |
//! | random | random |

use std::collections::BTreeMap;

use mlx_rs::Array;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::resized::resized;
use super::{Outcome, count_of};
use crate::calibrate::{BlockStream, Matrix, SecondMoments, observe, with_weight};
use crate::models::{Model, set_channels};
use crate::nn::channels::Channels;
use crate::progress::Observer;
use crate::prune::config::{Method, PruneConfig, Repair};
use crate::prune::mask::{apply, remove_lowest};
use crate::prune::progress::progress;
use crate::prune::reconstruction::{least_squares, scale_rows};
use crate::prune::report::BlockReport;
use crate::rng::digest;
use crate::{Error, Result, kernels};

/// Columns of a quantized weight are groups of as many.
const GROUP: usize = 64;

/// What may be removed from a model.
#[derive(Debug)]
pub(in crate::prune) struct Width {
    /// The smaller `config.json`.
    file: Value,
    /// Of each block.
    channels: Vec<Channels>,
    /// Number of channels to remove from each block.
    remove: usize,
}

impl Width {
    /// Checks that channels of `model`, which `file` describes, can be removed as `config` says.
    ///
    /// # Errors
    /// A family with experts; too few channels.
    pub(super) fn new(model: &Model, file: &Value, config: &PruneConfig) -> Result<Self> {
        let of = |block| {
            model.channels(block).ok_or_else(|| {
                Error::Config(format!(
                    "pattern width: {} has experts, whose channels cannot be removed; choose pattern depth",
                    model.block_path(block)
                ))
            })
        };
        let channels = (0..model.block_count()).map(of).collect::<Result<Vec<_>>>()?;
        let count = channels.first().map_or(0, |channels| channels.count);
        if count < 2 || channels.iter().any(|channels| channels.count != count) {
            return Err(Error::Config(
                "pattern width: the feed-forward layers of the model have one channel, or not all as many"
                    .into(),
            ));
        }
        let remove = count - rounded(count, count - count_of(count, config.sparsity()));
        Ok(Self { file: set_channels(file, count - remove)?, channels, remove })
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.channels.len()
    }

    /// Removes channels from `model`; in `model` itself, nothing reads them any more.
    ///
    /// # Errors
    /// Weights that are not finite; errors from MLX; [`Error::Interrupted`].
    pub(super) fn run(
        &self,
        model: &mut Model,
        sequences: Option<&[Vec<u32>]>,
        config: &PruneConfig,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let mut stream = sequences.map(|sequences| BlockStream::start(model, sequences)).transpose()?;
        let (mut masks, mut blocks) = (Vec::new(), Vec::new());
        for (block, channels) in self.channels.iter().enumerate() {
            let moments = match &stream {
                None => None,
                Some(stream) => {
                    let inputs = observe(stream, model, std::slice::from_ref(&channels.reader), observer)?;
                    inputs.into_values().next()
                }
            };
            let scores = scores(model, channels, moments.as_ref(), config)?;
            let mut mask = vec![true; channels.count];
            remove_lowest(&scores, self.remove, &mut mask);
            let output_error = silence(model, &channels.reader, &mask, moments.as_ref(), config.repair)?;
            blocks.push(BlockReport {
                path: model.block_path(block),
                removed_channels: (0..channels.count).filter(|&channel| !mask[channel]).collect(),
                output_error,
                ..BlockReport::default()
            });
            masks.push(mask);
            if let Some(stream) = &mut stream {
                stream.advance(model, observer)?;
            }
            progress(observer, "prune", block + 1, self.channels.len())?;
        }
        // By layer: the mask, and the first row of each of its runs of channels, or none where they are columns.
        let mut cuts: BTreeMap<&str, (&[bool], Vec<usize>)> = BTreeMap::new();
        for (channels, mask) in self.channels.iter().zip(&masks) {
            for (path, first) in &channels.rows {
                cuts.entry(path).or_insert((mask, Vec::new())).1.push(*first);
            }
            cuts.insert(&channels.reader, (mask, Vec::new()));
        }
        let cut = |name: &str, tensor: &Array| {
            let (path, leaf) = name.rsplit_once('.').unwrap_or_default();
            match cuts.get(path) {
                // The outputs of the reader stay, and so does their bias.
                Some((_, firsts)) if firsts.is_empty() && leaf == "bias" => Ok(tensor.clone()),
                Some((mask, firsts)) => keep(tensor, mask, firsts),
                None => Ok(tensor.clone()),
            }
        };
        let kept: Vec<usize> = (0..self.channels.len()).collect();
        let smaller = resized(model, &self.file, &kept, &cut)?;
        let sparsity = self.remove as f64 / self.channels[0].count as f64;
        Ok(Outcome { model: smaller, file: self.file.clone(), blocks, sparsity })
    }
}

/// `kept` of `count` channels, but in whole groups where those are small enough, so that the result can be quantized.
fn rounded(count: usize, kept: usize) -> usize {
    if count.is_multiple_of(GROUP) && count >= 8 * GROUP {
        let groups = (kept as f64 / GROUP as f64).round() as usize;
        (groups * GROUP).clamp(GROUP, count - GROUP)
    } else {
        kept
    }
}

/// How much each channel should stay.
fn scores(
    model: &mut Model,
    channels: &Channels,
    moments: Option<&SecondMoments>,
    config: &PruneConfig,
) -> Result<Vec<f32>> {
    let count = channels.count;
    if config.method() == Method::Random {
        let seed = digest(channels.reader.bytes().map(u64::from).chain([config.seed]));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        return Ok((0..count).map(|_| rng.random()).collect());
    }
    let mut read = |path: &str| with_weight(model, path, |weight| Matrix::read(path, &weight));
    let mut squares = vec![0.0_f32; count];
    for row in read(&channels.reader)?.values.chunks_exact(count) {
        squares.iter_mut().zip(row).for_each(|(sum, weight)| *sum += weight * weight);
    }
    match (config.method(), moments) {
        (Method::Activation, Some(moments)) => return Ok(moments.magnitudes().to_vec()),
        (Method::Wanda, Some(moments)) => {
            let means = moments.mean_squares();
            return Ok(squares.iter().zip(&means).map(|(square, mean)| (square * mean).sqrt()).collect());
        }
        _ => {}
    }
    for (path, first) in &channels.rows {
        let Matrix { values, columns, .. } = read(path)?;
        let rows = values.chunks_exact(columns).skip(*first);
        for (sum, row) in squares.iter_mut().zip(rows) {
            *sum += row.iter().map(|weight| weight * weight).sum::<f32>();
        }
    }
    Ok(squares.into_iter().map(f32::sqrt).collect())
}

/// Sets the columns of the layer at `path` that do not stay to zero, and repairs the others; returns the squared error of
/// its outputs relative to their squares.
fn silence(
    model: &mut Model,
    path: &str,
    mask: &[bool],
    moments: Option<&SecondMoments>,
    repair: Repair,
) -> Result<Option<f64>> {
    with_weight(model, path, |weight| {
        let Matrix { values: original, columns, dtype } = Matrix::read(path, &weight)?;
        let rows = original.len() / columns;
        let all = mask.repeat(rows);
        let mut pruned = original.clone();
        apply(&mut pruned, &all);
        match (repair, moments) {
            (Repair::LeastSquares, Some(moments)) => least_squares(&mut pruned, &original, &all, moments),
            (Repair::Scale, Some(moments)) => scale_rows(&mut pruned, &original, moments),
            _ => {}
        }
        let error = moments.map(|moments| crate::prune::block::output_error(&original, &pruned, moments));
        let array = Array::from_slice(&pruned, &[rows as i32, columns as i32]).as_dtype(dtype)?;
        kernels::eval([&array])?;
        *weight.weight = array;
        Ok(error)
    })
}

/// Keeps the rows of the channels that stay, of which there is a run from each of `firsts` on; or, without any, the columns.
fn keep(tensor: &Array, mask: &[bool], firsts: &[usize]) -> Result<Array> {
    let axis = i32::from(firsts.is_empty());
    let goes = |index: usize| {
        let channel = |first: usize| index.checked_sub(first).and_then(|channel| mask.get(channel));
        if firsts.is_empty() {
            !mask[index]
        } else {
            firsts.iter().any(|&first| channel(first) == Some(&false))
        }
    };
    let kept: Vec<i32> = (0..tensor.dim(axis)).filter(|&index| !goes(index as usize)).collect();
    let array = tensor.take_axis(Array::from_slice(&kept, &[kept.len() as i32]), axis)?;
    kernels::eval([&array])?;
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: &Array) -> Vec<f32> {
        kernels::eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn rows_of_all_runs_and_columns_go() {
        let mask = [true, false, true];
        let fused = Array::from_slice(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0], &[6, 1]);
        assert_eq!(values(&keep(&fused, &mask, &[0, 3]).unwrap()), [0.0, 2.0, 3.0, 5.0]);
        let bias = Array::from_slice(&[7.0_f32, 8.0, 9.0], &[3]);
        assert_eq!(values(&keep(&bias, &mask, &[0]).unwrap()), [7.0, 9.0]);
        let reader = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        assert_eq!(values(&keep(&reader, &mask, &[]).unwrap()), [1.0, 3.0, 4.0, 6.0]);
    }

    #[test]
    fn many_channels_stay_in_groups() {
        assert_eq!(rounded(1536, 1229), 1216);
        assert_eq!(rounded(1536, 3), 64);
        assert_eq!(rounded(128, 102), 102);
    }
}
