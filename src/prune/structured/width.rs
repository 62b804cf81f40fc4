//! Removing channels of feed-forward layers, groups of attention heads and channels of the residual stream; of the first two
//! as many in every block, since `config.json` has one number for all.

use std::collections::BTreeMap;

use mlx_rs::Array;
use serde_json::Value;

use super::cuts::Cuts;
use super::hidden::{self, Hidden};
use super::resized::resized;
use super::scores::scores;
use super::{Outcome, count_of};
use crate::calibrate::{BlockStream, Matrix, SecondMoments, observe, with_weight};
use crate::models::{Model, check_heads, hidden_multiple, set_channels, set_heads, set_hidden};
use crate::nn::Heads;
use crate::nn::units::Units;
use crate::progress::Observer;
use crate::prune::block::output_error;
use crate::prune::config::{Part, PruneConfig, Repair};
use crate::prune::mask::{apply, remove_lowest};
use crate::prune::method::Method;
use crate::prune::progress::progress;
use crate::prune::reconstruction::{least_squares, scale_rows};
use crate::prune::report::BlockReport;
use crate::prune::taylor;
use crate::{Error, Result, kernels};

/// Columns of a quantized weight are groups of as many.
const GROUP: usize = 64;

/// What may be removed from a model.
#[derive(Debug)]
pub(in crate::prune) struct Width {
    /// The smaller `config.json`.
    file: Value,
    /// Of each block, what may be removed from it, and how much.
    units: Vec<Vec<(Part, Units, usize)>>,
    hidden: Option<Hidden>,
}

impl Width {
    /// Checks that what `config` says can be removed from `model`, which `file` describes.
    ///
    /// # Errors
    /// A family with experts, or one that cannot express it; nothing to remove.
    pub(super) fn new(model: &Model, file: &Value, config: &PruneConfig) -> Result<Self> {
        let sparsity = config.share();
        let mut width =
            Self { file: file.clone(), units: vec![Vec::new(); model.block_count()], hidden: None };
        if config.width.contains(&Part::Heads) {
            width.add_heads(model, sparsity)?;
        }
        if config.width.contains(&Part::Mlp) {
            width.add_channels(model, sparsity)?;
        }
        if config.width.contains(&Part::Hidden) {
            let count = hidden::size(model);
            let explicit = with_heads(file, model, 0);
            let heads = if config.width.contains(&Part::Heads) { &width.file } else { &explicit };
            let multiple = hidden_multiple(heads)?;
            let target = count - count_of(count.max(2), sparsity);
            let remove = count - rounded_to(count, target, multiple).ok_or_else(|| {
                Error::Config(format!(
                    "width hidden: the hidden size of {count} must be a multiple of {multiple} by the number and size of heads: \
                     there is no smaller one; choose heads too"
                ))
            })?;
            width.hidden = Some(Hidden::new(model, &explicit, count, remove)?);
            if width.file["head_dim"].is_null() {
                width.file["head_dim"] = explicit["head_dim"].clone();
            }
            width.file = set_hidden(&width.file, count - remove);
        }
        if config.width != [Part::Mlp] {
            check_heads(&width.file)?;
        }
        Ok(width)
    }

    fn add_channels(&mut self, model: &Model, sparsity: f64) -> Result<()> {
        let of = |block| {
            model.channels(block).ok_or_else(|| {
                Error::Config(format!(
                    "pattern width: {} has experts, whose channels cannot be removed; choose pattern depth, or --width heads",
                    model.block_path(block)
                ))
            })
        };
        let channels = (0..model.block_count()).map(of).collect::<Result<Vec<_>>>()?;
        let count =
            count_in(&channels, "the feed-forward layers of the model have one channel, or not all as many")?;
        let remove = count - rounded(count, count - count_of(count, sparsity));
        self.file = set_channels(&self.file, count - remove)?;
        for (units, channels) in self.units.iter_mut().zip(channels) {
            units.push((Part::Mlp, channels, remove));
        }
        Ok(())
    }

    fn add_heads(&mut self, model: &Model, sparsity: f64) -> Result<()> {
        let groups: Vec<Option<Units>> = (0..model.block_count()).map(|block| model.groups(block)).collect();
        let some: Vec<Units> = groups.iter().flatten().cloned().collect();
        let count = count_in(&some, "the model has one group of attention heads, or not all layers as many")?;
        let remove = count_of(count, sparsity);
        self.file = with_heads(&self.file, model, remove);
        for (units, groups) in self.units.iter_mut().zip(groups) {
            units.extend(groups.map(|groups| (Part::Heads, groups, remove)));
        }
        Ok(())
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.units.len()
    }

    /// Fraction of what goes, where it is of one kind.
    fn sparsity(&self) -> Option<f64> {
        let mut kinds: BTreeMap<Part, f64> = BTreeMap::new();
        for (part, units, remove) in self.units.iter().flatten() {
            kinds.insert(*part, *remove as f64 / units.count as f64);
        }
        kinds.extend(
            self.hidden.iter().map(|hidden| (Part::Hidden, hidden.remove as f64 / hidden.count as f64)),
        );
        kinds.values().next().copied().filter(|_| kinds.len() == 1)
    }

    /// Makes `model` narrower; in `model` itself, nothing reads any more what was removed from a block.
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
        let changes = match (config.method(), sequences) {
            (Method::Taylor, Some(sequences)) => {
                Some(taylor::importance_of_units(model, &self.readers(), sequences, observer)?)
            }
            _ => None,
        };
        let mut stream = sequences.map(|sequences| BlockStream::start(model, sequences)).transpose()?;
        let mut norms = self.hidden.as_ref().map(Hidden::norms).unwrap_or_default();
        let (mut cuts, mut blocks) = (Cuts::new(model), Vec::new());
        for (block, units) in self.units.iter().enumerate() {
            let mut report = BlockReport { path: model.block_path(block), ..BlockReport::default() };
            if let (Some(stream), Some(norms)) = (&stream, norms.get_mut(block)) {
                hidden::observe(stream, model, norms, observer)?;
            }
            for (part, units, remove) in units {
                let moments = match &stream {
                    None => None,
                    Some(stream) => {
                        let inputs = observe(stream, model, std::slice::from_ref(&units.reader), observer)?;
                        inputs.into_values().next()
                    }
                };
                let changes = changes.as_ref().map(|changes| changes[&units.reader].as_slice());
                let scores = scores(model, units, moments.as_ref(), changes, config)?;
                let mut mask = vec![true; units.count];
                remove_lowest(&scores, *remove, &mut mask);
                let error = silence(model, units, &mask, moments.as_ref(), config.repair)?;
                cuts.remove_units(units, &mask);
                let removed = (0..units.count).filter(|&unit| !mask[unit]).collect();
                if *part == Part::Heads {
                    (report.removed_groups, report.attention_error) = (removed, error);
                } else {
                    (report.removed_channels, report.output_error) = (removed, error);
                }
            }
            blocks.push(report);
            if let Some(stream) = &mut stream {
                stream.advance(model, observer)?;
            }
            progress(observer, "prune", block + 1, self.units.len())?;
        }
        let mut removed_hidden = Vec::new();
        if let Some(hidden) = &self.hidden {
            if let (Some(stream), Some(last)) = (&stream, norms.last_mut()) {
                hidden::observe(stream, model, last, observer)?;
            }
            let scores = hidden.scores(model, &norms, changes.as_ref(), config)?;
            let mut mask = vec![true; hidden.count];
            remove_lowest(&scores, hidden.remove, &mut mask);
            hidden.cut(model, &mask, &norms, &mut cuts)?;
            removed_hidden = (0..hidden.count).filter(|&channel| !mask[channel]).collect();
        }
        let kept: Vec<usize> = (0..self.units.len()).collect();
        let smaller = resized(model, &self.file, &kept, &|name, tensor| cuts.apply(name, tensor))?;
        Ok(Outcome {
            model: smaller,
            file: self.file.clone(),
            blocks,
            sparsity: self.sparsity(),
            removed_hidden,
        })
    }

    /// The layers that read what may go, with the number of inputs of each unit.
    fn readers(&self) -> BTreeMap<String, usize> {
        let units = self.units.iter().flatten().map(|(_, units, _)| (units.reader.clone(), units.columns));
        let hidden = self.hidden.iter().flat_map(Hidden::consumers).map(|path| (path.clone(), 1));
        units.chain(hidden).collect()
    }
}

/// The number of units that all of `units` have.
fn count_in(units: &[Units], otherwise: &str) -> Result<usize> {
    let count = units.first().map_or(0, |units| units.count);
    if count < 2 || units.iter().any(|units| units.count != count) {
        return Err(Error::Config(format!("pattern width: {otherwise}")));
    }
    Ok(count)
}

/// `file`, which describes `model`, with the numbers and the size of its heads, without `remove` groups.
fn with_heads(file: &Value, model: &Model, remove: usize) -> Value {
    let heads = (0..model.block_count()).find_map(|block| model.heads(block));
    heads.map_or_else(
        || file.clone(),
        |&Heads { heads, kv_heads, head_dim, .. }| {
            let groups = kv_heads as usize - remove;
            set_heads(file, groups * (heads / kv_heads) as usize, groups, head_dim as usize)
        },
    )
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

/// The multiple of `multiple` below `count` near `kept`: one that is also a multiple of the size of groups, or of as large
/// a part of it as comes within a tenth of `count`, so that the result can be quantized.
fn rounded_to(count: usize, kept: usize, multiple: usize) -> Option<usize> {
    let near = |step: usize| {
        let nearest = (kept as f64 / step as f64).round() as usize * step;
        (step < count).then(|| nearest.clamp(step, (count - 1) / step * step))
    };
    let parts = (0..=GROUP.ilog2()).rev().map(|power| 1_usize << power);
    let common = |part: usize| multiple / gcd(multiple, part) * part;
    parts
        .filter_map(|part| near(common(part)))
        .find(|size| size.abs_diff(kept) * 10 <= count)
        .or(near(multiple))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sets the columns that read units that do not stay to zero, and repairs the others; returns the squared error of the
/// outputs relative to their squares.
fn silence(
    model: &mut Model,
    units: &Units,
    mask: &[bool],
    moments: Option<&SecondMoments>,
    repair: Repair,
) -> Result<Option<f64>> {
    with_weight(model, &units.reader, |weight| {
        let Matrix { values: original, columns, dtype } = Matrix::read(&units.reader, &weight)?;
        let rows = original.len() / columns;
        let row: Vec<bool> =
            mask.iter().flat_map(|&stays| std::iter::repeat_n(stays, units.columns)).collect();
        let all = row.repeat(rows);
        let mut pruned = original.clone();
        apply(&mut pruned, &all);
        match (repair, moments) {
            (Repair::LeastSquares, Some(moments)) => least_squares(&mut pruned, &original, &all, moments),
            (Repair::Scale, Some(moments)) => scale_rows(&mut pruned, &original, moments),
            _ => {}
        }
        let error = moments.map(|moments| output_error(&original, &pruned, moments));
        let array = Array::from_slice(&pruned, &[rows as i32, columns as i32]).as_dtype(dtype)?;
        kernels::eval([&array])?;
        *weight.weight = array;
        Ok(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_channels_stay_in_groups() {
        assert_eq!(rounded(1536, 1229), 1216);
        assert_eq!(rounded(1536, 3), 64);
        assert_eq!(rounded(128, 102), 102);
        assert_eq!(rounded_to(256, 205, 4), Some(192));
        assert_eq!(rounded_to(576, 461, 9), Some(432));
        assert_eq!(rounded_to(64, 45, 4), Some(48));
        assert_eq!(rounded_to(64, 32, 32), Some(32));
        assert_eq!(rounded_to(64, 51, 64), None);
    }
}
