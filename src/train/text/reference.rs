//! Log-probabilities of answers under the reference model of DPO, which is the model before training.
//!
//! They are computed once and stored next to the checkpoints, because a resumed run no longer has the reference
//! weights.

use std::ops::ControlFlow;
use std::path::Path;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use super::data::{TextData, TrainingRows};
use super::task::negative_log_likelihoods;
use crate::data::Examples;
use crate::kernels::memory::clear_cache;
use crate::models::Model;
use crate::progress::{Event, Observer};
use crate::train::memory::MemoryLimit;
use crate::train::plan::Plan;
use crate::{Error, Result, files, kernels};

/// File name in the checkpoint folder.
pub const FILE: &str = "reference.json";
/// Largest such file that is read, in bytes; a pair has some twenty.
const MAX_BYTES: u64 = 1 << 32;

/// Log-probabilities of the samples of both splits, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceLogProbs {
    /// Fingerprint of the model and the data.
    pub fingerprint: String,
    /// Of the training rows.
    pub train: Vec<f32>,
    /// Of the validation rows.
    pub valid: Vec<f32>,
}

impl ReferenceLogProbs {
    /// Loads the log-probabilities from the file `path` if they match `fingerprint`, else computes them with
    /// `model`, which must be in its initial state.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`] if the observer stops the work.
    pub fn load_or_compute(
        model: &Model,
        data: &TextData,
        train: &Examples,
        path: &Path,
        fingerprint: String,
        plan: &Plan,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let valid = &data.valid;
        let stored =
            files::read_to_string(path, MAX_BYTES).ok().and_then(|text| serde_json::from_str(&text).ok());
        let fits = |values: &[f32], examples: &Examples| values.len() == examples.samples().len();
        let belongs = |stored: &Self| {
            stored.fingerprint == fingerprint && fits(&stored.train, train) && fits(&stored.valid, valid)
        };
        let (stored, group) = (stored.filter(belongs), plan.group);
        // A process that lacks the file would wait for the others, so it counts only where all have it.
        let [found] = group.all_sum_f64([f64::from(stored.is_some())])?;
        if let Some(stored) = stored
            && found >= group.size() as f64
        {
            return Ok(stored);
        }
        let _limit = MemoryLimit::lower_to(plan.memory_budget)?;
        let total = train.len() + valid.len();
        let mut counter = ProgressCounter { done: 0, total, observer };
        let mut of = |examples| log_probabilities(model, examples, data, plan, &mut counter);
        Ok(Self { train: of(train)?, valid: of(valid)?, fingerprint })
    }

    /// Attaches the log-probabilities to `data`. Rows on disk are left without.
    #[must_use]
    pub fn attach_to(self, data: TextData<'_>) -> TextData<'_> {
        let train = match data.train {
            TrainingRows::InMemory(examples) => TrainingRows::InMemory(examples.with_reference(self.train)),
            streamed @ TrainingRows::Streamed(_) => streamed,
        };
        TextData { train, valid: data.valid.with_reference(self.valid), ..data }
    }

    /// Serializes the log-probabilities.
    ///
    /// # Errors
    /// A log-probability that is not finite.
    pub fn to_json(&self) -> Result<String> {
        if let Some(number) = self.train.iter().chain(&self.valid).find(|number| !number.is_finite()) {
            return Err(Error::Training(format!(
                "the log-probability of an answer is {number} before the first step; check the weights for values \
                 that are not finite"
            )));
        }
        serde_json::to_string(self)
            .map_err(|error| Error::Training(format!("cannot store the reference: {error}")))
    }
}

/// Reports progress in steps of 10 %.
struct ProgressCounter<'a> {
    done: usize,
    total: usize,
    observer: &'a mut dyn Observer,
}

impl ProgressCounter<'_> {
    /// Adds `pairs`, counted over all processes.
    fn add(&mut self, pairs: usize) -> Result<()> {
        let tenth = |done: usize| 10 * done / self.total.max(1);
        let told = tenth(self.done);
        self.done = (self.done + pairs).min(self.total);
        let event =
            Event::Progress { stage: "reference".into(), done: self.done as u64, total: self.total as u64 };
        let next = if tenth(self.done) > told { self.observer.on(&event) } else { self.observer.poll() };
        if next == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Computes the log-probability of each answer under `model`, in the order of the samples. Each process reads its
/// share of the pairs, sorted by length to reduce padding.
fn log_probabilities(
    model: &Model,
    examples: &Examples,
    data: &TextData,
    plan: &Plan,
    counter: &mut ProgressCounter,
) -> Result<Vec<f32>> {
    let lengths = examples.lengths();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&pair| std::cmp::Reverse(lengths[pair]));
    let own: Vec<usize> = order.into_iter().skip(plan.group.rank()).step_by(plan.group.size()).collect();
    let mut values = vec![0.0; 2 * examples.len()];
    let (mut done, mut at_once) = (0, plan.batch_size.div_ceil(plan.group.size()));
    while done < own.len() {
        let pairs = &own[done..own.len().min(done + at_once)];
        let batch = examples.batch(pairs, data.max_seq_length, data.pad_id);
        let nll = negative_log_likelihoods(model, &batch)?;
        match kernels::eval([&nll]).map_err(Error::from) {
            Err(error) if error.is_out_of_memory() && pairs.len() > 1 => {
                at_once = pairs.len() / 2;
                clear_cache()?;
                continue;
            }
            other => other?,
        }
        for (pair, nll) in pairs.iter().zip(nll.as_slice::<f32>().chunks_exact(2)) {
            values[2 * pair..][..2].copy_from_slice(&[-nll[0], -nll[1]]);
        }
        done += pairs.len();
        counter.add(pairs.len() * plan.group.size())?;
    }
    if plan.group.size() > 1 && !values.is_empty() {
        let sum = plan.group.all_sum(&Array::from_slice(&values, &[values.len() as i32]))?;
        kernels::eval([&sum])?;
        values = sum.as_slice::<f32>().to_vec();
    }
    Ok(values)
}
