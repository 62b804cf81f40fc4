//! Mixed precision: a format for each layer, such that the model has a given size and loses least.

use std::path::Path;

use mlx_rs::module::ModuleParameters as _;
use serde_json::{Value, json};

use super::assignment::{Choice, assign, total};
use super::config::{QuantizeConfig, Technique};
use super::format::describe;
use super::plan::Plan;
use super::report::Sensitivity;
use super::sensitivity::{Unit, measure};
use crate::io::atomic;
use crate::kernels::quantized::{Format, Mode};
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, files};

/// Bits per weight to choose from.
const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
/// Bits per weight in which layers are quantized alone: few, so that what they cost stands out from rounding, and the fewest,
/// in which errors are not small any more.
const MEASURED_BITS: [usize; 2] = [3, 2];
/// How far the size may be from what was asked for.
const TOLERANCE: f64 = 0.01;
/// File name of the measured sensitivities in the output folder.
pub(super) const FILE: &str = "sensitivity.json";

/// The sizes among which to choose.
pub(super) struct Mixed {
    units: Vec<Unit>,
    /// Bytes of each unit in each of its formats.
    costs: Vec<Vec<u64>>,
    /// Bytes of everything that has no choice.
    fixed: u64,
    /// Bytes of the whole model.
    target: u64,
    parameters: u64,
    /// Sensitivities that were measured before.
    given: Option<Vec<Sensitivity>>,
}

impl Mixed {
    /// Finds the layers of `plan` whose formats may be chosen.
    ///
    /// # Errors
    /// A size that the model cannot have: the possible range is named; sensitivities of another model.
    pub(super) fn new(model: &mut Model, plan: &Plan, config: &QuantizeConfig) -> Result<Self> {
        let mut units: Vec<Unit> = Vec::new();
        let blocks: Vec<String> = (0..model.block_count()).map(|i| model.block_path(i) + ".").collect();
        let free = plan.order.iter().filter(|path| !plan.fixed.contains(*path));
        for path in free {
            let (name, _) = model.mlx_name(path);
            let block = blocks.iter().position(|block| path.starts_with(block.as_str()));
            if let Some(unit) = units.iter_mut().find(|unit| unit.name == name) {
                unit.paths.push(path.clone());
            } else {
                let candidates = candidates(config, block.is_some())?;
                units.push(Unit { name, paths: vec![path.clone()], block, candidates });
            }
        }
        let mut fixed: u64 = model.parameters().flatten().values().map(|x| x.nbytes() as u64).sum();
        let mut costs: Vec<Vec<u64>> = units.iter().map(|unit| vec![0; unit.candidates.len()]).collect();
        model.visit_quantizable(&mut |path, weight| {
            let Some(&format) = plan.formats.get(path) else { return Ok(()) };
            let (rows, columns) = (weight.weight.dim(0) as u64, weight.weight.dim(1) as u64);
            let number = weight.weight.nbytes() as u64 / (rows * columns).max(1);
            let stored = |format: &Format| stored_bytes(*format, rows * columns, number);
            fixed -= weight.weight.nbytes() as u64;
            match units.iter().position(|unit| unit.paths.iter().any(|free| free == path)) {
                None => fixed += stored(&format),
                Some(unit) => {
                    let costs = costs[unit].iter_mut().zip(&units[unit].candidates);
                    costs.for_each(|(cost, format)| *cost += stored(format));
                }
            }
            Ok(())
        })?;
        let parameters = model.count_parameters()?;
        let bytes = |bits: f64| (bits * parameters as f64 / 8.0).round() as u64;
        let target = config.target_bytes.or(config.target_bpw.map(bytes)).unwrap_or(0);
        let given = config.sensitivity.as_ref().map(|path| Sensitivity::read(Path::new(path))).transpose()?;
        let this = Self { units, costs, fixed, target, parameters, given };
        this.check(config)?;
        if let Some(given) = &this.given {
            this.choices(given)?;
        }
        Ok(this)
    }

    fn check(&self, config: &QuantizeConfig) -> Result<()> {
        if self.units.is_empty() {
            return Err(Error::Config("every layer is fixed by layers: there is no format to choose".into()));
        }
        let bound = |pick: fn(&Vec<u64>) -> Option<&u64>| {
            self.fixed + self.costs.iter().filter_map(pick).sum::<u64>()
        };
        let (least, most) = (bound(|costs| costs.iter().min()), bound(|costs| costs.iter().max()));
        if (least..=most).contains(&self.target) {
            return Ok(());
        }
        let [least_bits, most_bits] = [least, most].map(|bytes| bytes as f64 * 8.0 / self.parameters as f64);
        let given = match config.target_bpw {
            Some(bits) => format!("target_bpw is {bits}"),
            None => format!("target_bytes is {}", self.target),
        };
        // Rounded inwards, so that what is named can be had.
        let (low, high) = ((least_bits * 100.0).ceil() / 100.0, (most_bits * 100.0).floor() / 100.0);
        Err(Error::Config(format!(
            "{given}, but the model can have {low:.2} to {high:.2} bits per weight, {least} to {most} bytes, with its dense \
             parameters and the layers that are fixed"
        )))
    }

    /// Chooses formats for `plan`, by sensitivities that were measured before or are measured now on `sequences`, and
    /// returns these. `identity` is what they depend on.
    ///
    /// # Errors
    /// Errors of [`measure`].
    pub(super) fn choose(
        &self,
        model: &mut Model,
        plan: &mut Plan,
        sequences: &[Vec<u32>],
        config: &QuantizeConfig,
        (folder, identity): (&Path, &Value),
        observer: &mut dyn Observer,
    ) -> Result<Vec<Sensitivity>> {
        let path = folder.join(FILE);
        let found = match &self.given {
            Some(given) => Some(given.clone()),
            None if config.resume && is_of(&path, identity) => Some(Sensitivity::read(&path)?),
            None => None,
        };
        let sensitivities = if let Some(found) = found {
            found
        } else {
            let format = |bits| {
                let format = Format::affine(bits, config.group_size);
                format.map_err(|error| Error::Config(error.what().to_owned()))
            };
            let [fine, coarse] = MEASURED_BITS;
            measure(model, sequences, &self.units, [format(fine)?, format(coarse)?], config, observer)?
        };
        let units = self.choices(&sensitivities)?;
        let budget = |target: u64| assign(&units, target.saturating_sub(self.fixed));
        let size = |chosen: &[usize]| self.fixed + total(&units, chosen).cost;
        let is_near =
            |chosen: &Vec<usize>| (size(chosen) as f64 / self.target as f64 - 1.0).abs() <= TOLERANCE;
        let below = budget(self.target).filter(is_near);
        let above = || budget((self.target as f64 * (1.0 + TOLERANCE)) as u64).filter(is_near);
        let chosen =
            below.or_else(above).or_else(|| budget(self.target)).unwrap_or_else(|| vec![0; units.len()]);
        if !is_near(&chosen) {
            log::warn!(
                "the layers are too few and too large for a size of {} bytes: it is {}",
                self.target,
                size(&chosen)
            );
        }
        for (unit, &option) in self.units.iter().zip(&chosen) {
            for path in &unit.paths {
                plan.formats.insert(path.clone(), unit.candidates[option]);
            }
        }
        let text = json!({"identity": identity, "layers": sensitivities});
        atomic::write_text(&path, &format!("{text:#}\n"))?;
        Ok(sensitivities)
    }

    /// Cost and expected loss of each unit in each format.
    fn choices(&self, sensitivities: &[Sensitivity]) -> Result<Vec<Vec<Choice>>> {
        let missing = |what: String| {
            Error::Config(format!(
                "sensitivity: it has no {what}: it was measured on another model or with other settings"
            ))
        };
        let units = self.units.iter().zip(&self.costs).map(|(unit, costs)| {
            let measured = sensitivities.iter().find(|measured| measured.layer == unit.name);
            let measured = measured.ok_or_else(|| missing(format!("layer {}", unit.name)))?;
            let choices = unit.candidates.iter().zip(costs).map(|(&format, &cost)| {
                let error = measured.errors.get(&describe(format));
                let error =
                    error.ok_or_else(|| missing(format!("{} for {}", describe(format), unit.name)))?;
                Ok(Choice { cost, loss: measured.kl * error })
            });
            choices.collect::<Result<Vec<Choice>>>()
        });
        units.collect()
    }
}

/// Whether the sensitivities in the file `path` were measured for a run with this `identity`.
fn is_of(path: &Path, identity: &Value) -> bool {
    let text = files::read_to_string(path, files::MAX_JSON).unwrap_or_default();
    serde_json::from_str(&text).is_ok_and(|value: Value| value["identity"] == *identity)
}

/// Formats of a layer. Floating-point formats are only rounded to nearest, so that beside GPTQ they would be estimated too
/// favourably.
fn candidates(config: &QuantizeConfig, in_block: bool) -> Result<Vec<Format>> {
    let affine = BITS.into_iter().map(|bits| Format::affine(bits, config.group_size));
    let is_rounded = !in_block || config.rounding == Technique::Rtn;
    let floats = Mode::ALL.into_iter().filter(|_| is_rounded).filter_map(Mode::float_format);
    affine
        .chain(floats.map(Ok))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Config(error.what().to_owned()))
}

/// Bytes of so many `weights`, with scales and biases that have `number` bytes each.
fn stored_bytes(format: Format, weights: u64, number: u64) -> u64 {
    let groups = weights / format.group_size() as u64;
    let numbers = if format.mode() == Mode::Affine { 2 * number } else { 1 };
    weights * format.bits() as u64 / 8 + groups * numbers
}
