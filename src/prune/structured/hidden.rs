//! Removing channels of the residual stream, the same ones everywhere, by what norms give of them
//! ([Minitron](https://arxiv.org/abs/2407.14679)).
//!
//! | method | score of a channel |
//! |---|---|
//! | magnitude | root of the sum of squares of all parameters along it |
//! | activation | mean of `\|y\|`, summed over the norms with outputs `y` |
//! | wanda | `√(Σ mean of y²·‖columns‖²)`, with the columns that read it, over norms |
//! | taylor | how much the loss changes without these columns, to first order |
//! | random | random |
//!
//! A norm divides by the root mean square of its inputs, which is another one over the channels that stay. On calibration
//! text the mean ratio of their squares is measured, and the weight of the norm makes up for it.

use std::collections::BTreeMap;

use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::cuts::Cuts;
use super::scores::random;
use crate::calibrate::{BlockStream, Matrix, with_weight};
use crate::models::{self, Model, set_hidden};
use crate::nn::Head;
use crate::nn::scaling::Producer;
use crate::progress::Observer;
use crate::prune::config::PruneConfig;
use crate::prune::method::Method;
use crate::{Error, Result, kernels};

/// The residual stream of a model.
#[derive(Debug)]
pub(super) struct Hidden {
    pub count: usize,
    pub remove: usize,
    /// Parameters and their axes along the stream.
    axes: Vec<(String, usize)>,
    /// Those of each block.
    norms: Vec<Vec<Norm>>,
}

/// A norm of the stream, and what is known of its outputs.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    path: String,
    offset: f32,
    /// Linear layers that read its outputs.
    consumers: Vec<String>,
    /// Sums of `|y|` and `y²` over tokens.
    sums: [Vec<f64>; 2],
    tokens: usize,
}

impl Hidden {
    /// Checks that `remove` of `count` channels of `model` can go, which `file` describes, with the size of heads.
    ///
    /// # Errors
    /// A parameter along several copies of the stream.
    pub(super) fn new(model: &Model, file: &Value, count: usize, remove: usize) -> Result<Self> {
        let narrow = models::create(&set_hidden(file, count - remove))?;
        let narrow: BTreeMap<String, Vec<i32>> = narrow
            .parameters()
            .flatten()
            .iter()
            .map(|(name, x)| (name.to_string(), x.shape().to_vec()))
            .collect();
        let mut axes = Vec::new();
        // In order, so that the same one is named in errors.
        let wide: BTreeMap<_, _> = model.parameters().flatten().into_iter().collect();
        for (name, wide) in wide {
            // Absent where the head is untied only in what was read.
            let Some(shape) = narrow.get(name.as_ref()) else { continue };
            for (axis, (&old, &new)) in
                wide.shape().iter().zip(shape).enumerate().filter(|(_, (old, new))| old != new)
            {
                if (old as usize, new as usize) != (count, count - remove) {
                    return Err(Error::Config(format!(
                        "width hidden: {name} has {old} entries along the hidden size of {count}, and which go together \
                         is not known; choose mlp or heads"
                    )));
                }
                axes.push((name.to_string(), axis));
            }
        }
        let norm = |path: String, offset: f32, consumers: Vec<String>| {
            let sums = [vec![0.0; count], vec![0.0; count]];
            Norm { path, offset, consumers, sums, tokens: 0 }
        };
        let norms = |block| {
            let scalings = model.scalings(block).into_iter();
            scalings.filter_map(|scaling| match scaling.producer {
                Producer::Norm { path, offset } => Some(norm(path, offset, scaling.consumers)),
                Producer::Linear { .. } => None,
            })
        };
        let mut norms: Vec<Vec<Norm>> =
            (0..model.block_count()).map(|block| norms(block).collect()).collect();
        let (path, offset) = model.final_norm();
        norms.push(vec![norm(path.to_owned(), offset, Vec::new())]);
        Ok(Self { count, remove, axes, norms })
    }

    /// Key paths of all linear layers that read norms.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &String> {
        self.norms.iter().flatten().flat_map(|norm| &norm.consumers)
    }

    /// What is known of the norms before anything is observed.
    pub(super) fn norms(&self) -> Vec<Vec<Norm>> {
        self.norms.clone()
    }

    /// The score of each channel.
    ///
    /// # Errors
    /// Weights that are not finite; errors from MLX.
    pub(super) fn scores(
        &self,
        model: &mut Model,
        norms: &[Vec<Norm>],
        changes: Option<&BTreeMap<String, Vec<f32>>>,
        config: &PruneConfig,
    ) -> Result<Vec<f32>> {
        let mut sums = vec![0.0_f64; self.count];
        let mut add = |values: &[f64]| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        match config.method() {
            Method::Random => return Ok(random("hidden", self.count, config.seed)),
            Method::Activation => norms.iter().flatten().for_each(|norm| add(&norm.means(0))),
            Method::Taylor => {
                for change in self.consumers().filter_map(|path| changes?.get(path)) {
                    add(&change.iter().map(|&change| change.into()).collect::<Vec<f64>>());
                }
            }
            Method::Wanda => {
                for norm in norms.iter().flatten() {
                    let means = norm.means(1);
                    for path in &norm.consumers {
                        let Matrix { values, columns, .. } =
                            with_weight(model, path, |w| Matrix::read(path, &w))?;
                        for row in values.chunks_exact(columns) {
                            let shares = row.iter().zip(&means).map(|(w, mean)| f64::from(w * w) * mean);
                            add(&shares.collect::<Vec<f64>>());
                        }
                    }
                }
                for sum in &mut sums {
                    *sum = sum.sqrt();
                }
            }
            _ => {
                let parameters = model.parameters().flatten();
                for (name, axis) in &self.axes {
                    let parameter = parameters[name.as_str()].as_dtype(Dtype::Float32)?;
                    let rows = parameter.move_axis(*axis as i32, -1)?.reshape(&[-1, self.count as i32])?;
                    add(&numbers(&rows.square()?.sum_axis(0, false)?)?);
                }
            }
        }
        Ok(sums.into_iter().map(|sum| sum as f32).collect())
    }

    /// Removes the channels that do not stay in `mask`, and lets the weights of `norms` make up for it.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn cut(
        &self,
        model: &Model,
        mask: &[bool],
        norms: &[Vec<Norm>],
        cuts: &mut Cuts,
    ) -> Result<()> {
        for (name, axis) in &self.axes {
            cuts.remove(name, *axis, (0, 1), mask);
        }
        let parameters = model.parameters().flatten();
        for norm in norms.iter().flatten().filter(|norm| norm.tokens > 0) {
            let name = format!("{}.weight", norm.path);
            let weight = numbers(parameters[name.as_str()])?;
            // Squares relative to their mean; what a factor of zero hides is taken for one.
            let squares: Vec<f64> = weight
                .iter()
                .zip(norm.means(1))
                .map(|(weight, mean)| match (weight + f64::from(norm.offset)).powi(2) {
                    square if square > 1e-12 => mean / square,
                    _ => 1.0,
                })
                .collect();
            let mean = |of: &dyn Fn(usize) -> bool| {
                let some: Vec<f64> = (0..squares.len()).filter(|&i| of(i)).map(|i| squares[i]).collect();
                some.iter().sum::<f64>() / some.len() as f64
            };
            // What all of them lack of one is the epsilon of the norm, which stays.
            let ratio = mean(&|i| mask[i]) + 1.0 - mean(&|_| true);
            cuts.scale(&name, ratio.sqrt() as f32, norm.offset);
        }
        if model.outline().is_some_and(|outline| outline.embedding_scale.is_some()) {
            // Embeddings are multiplied by the root of the hidden size, which is another one.
            let ratio = (self.count as f32 / (self.count - self.remove) as f32).sqrt();
            cuts.scale("model.embed_tokens.weight", ratio, 0.0);
            if matches!(model.head(), Head::Tied(_)) {
                let (path, offset) = model.final_norm();
                cuts.scale(&format!("{path}.weight"), ratio.recip(), offset);
            }
        }
        Ok(())
    }
}

/// Number of channels of the residual stream of `model`.
pub(super) fn size(model: &Model) -> usize {
    let name = format!("{}.weight", model.final_norm().0);
    model.parameters().flatten().get(name.as_str()).map_or(0, |weight| weight.size())
}

/// Observes the outputs of `norms`, those of the block that `stream` is in front of, or the final one.
///
/// # Errors
/// Errors from MLX; [`Error::Interrupted`].
pub(super) fn observe(
    stream: &BlockStream,
    model: &mut Model,
    norms: &mut [Norm],
    observer: &mut dyn Observer,
) -> Result<()> {
    if stream.block() == model.block_count() {
        for x in stream.batches() {
            norms[0].add(&model.apply_final_norm(x)?)?;
        }
        return Ok(());
    }
    let readers: Vec<String> = norms.iter().filter_map(|norm| norm.consumers.first().cloned()).collect();
    stream.observe(model, &readers, observer, &mut |input| {
        input.layers.iter().try_for_each(|&layer| norms[layer].add(input.x))
    })
}

impl Norm {
    /// Adds outputs, `[..., hidden]`.
    fn add(&mut self, y: &Array) -> Result<()> {
        let rows = y.as_dtype(Dtype::Float32)?.reshape(&[-1, y.dim(-1)])?;
        for (sums, more) in self.sums.iter_mut().zip([rows.abs()?, rows.square()?]) {
            let more = numbers(&more.sum_axis(0, false)?)?;
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.tokens += rows.dim(0) as usize;
        Ok(())
    }

    /// Means over tokens of `|y|` or, number 1, `y²`.
    fn means(&self, which: usize) -> Vec<f64> {
        self.sums[which].iter().map(|sum| sum / self.tokens.max(1) as f64).collect()
    }
}

fn numbers(x: &Array) -> Result<Vec<f64>> {
    let x = x.as_dtype(Dtype::Float32)?.contiguous()?;
    kernels::eval([&x])?;
    Ok(x.as_slice::<f32>().iter().map(|&x| x.into()).collect())
}
