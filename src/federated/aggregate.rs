//! From the updates of a round to one.

use kernels::Isa;
use kernels::updates::{ValuesMut, column_statistic, is_finite, squared_distances, weighted_sum};
use rayon::prelude::*;
use serde::Serialize;

use super::accumulator::check_weight;
use super::config::{AggregateConfig, OnInvalid, PreAggregation};
use super::distances::Distances;
use super::mixtures::{bucketing, nearest_neighbours, through};
use super::rules::Combination;
use super::updates::Updates;
use crate::{Error, Result, threads};

/// What a rule decided.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Clients whose numbers were not finite, by number.
    pub dropped: Vec<usize>,
    /// Share of every client in the result; none for rules that decide by column.
    pub shares: Option<Vec<f64>>,
    /// Score of every client where the rule gives one: the lower, the more the client is like the others.
    pub scores: Option<Vec<f64>>,
}

/// Writes the aggregate of `updates` to `outputs`, one per tensor.
///
/// # Errors
/// Invalid settings for this number of clients; updates that do not fit together or are not finite; unequal weights for
/// a rule that knows none.
pub fn aggregate(
    updates: &Updates,
    weights: Option<&[f64]>,
    config: &AggregateConfig,
    mut outputs: Vec<ValuesMut>,
) -> Result<Report> {
    threads::start()?;
    updates.validate()?;
    config.validate(updates.len())?;
    check_weights(updates, weights, config)?;
    config.rule.check_reference(updates)?;
    let all: Vec<usize> = (0..updates.len()).collect();
    let round = Round { updates, weights, config };
    // A mean shows in its result what was not finite, and is spared a pass over memory.
    if config.rule.is_mean()
        && let Some(report) = round.combine(&all, &mut outputs)?
    {
        return Ok(report);
    }
    let clients = round.finite_clients()?;
    let report = round.combine(&clients, &mut outputs)?;
    report.ok_or_else(|| Error::Config("the aggregate of the updates overflows their dtype".into()))
}

/// Checks every weight, and whether the rule knows weights.
fn check_weights(updates: &Updates, weights: Option<&[f64]>, config: &AggregateConfig) -> Result<()> {
    let Some(weights) = weights else { return Ok(()) };
    if weights.len() != updates.len() {
        let (found, wanted) = (weights.len(), updates.len());
        return Err(Error::Config(format!("weights has {found} numbers for {wanted} updates")));
    }
    updates.clients.iter().zip(weights).try_for_each(|(client, &weight)| check_weight(client, weight))?;
    let unequal = weights.iter().any(|weight| weight.to_bits() != weights[0].to_bits());
    let subject = match config.pre_aggregation {
        Some(PreAggregation::Nnm { .. }) => "nnm",
        Some(PreAggregation::Bucketing { .. }) => "bucketing",
        None if config.rule.uses_weights() => return Ok(()),
        None => config.rule.name(),
    };
    if unequal {
        return Err(Error::Config(format!(
            "weights: {subject} counts every update once, since a client may claim any weight; pass weights=None"
        )));
    }
    Ok(())
}

struct Round<'a> {
    updates: &'a Updates<'a>,
    weights: Option<&'a [f64]>,
    config: &'a AggregateConfig,
}

impl Round<'_> {
    /// Clients whose numbers are all finite.
    ///
    /// # Errors
    /// One whose are not, unless such updates are dropped; too few left.
    fn finite_clients(&self) -> Result<Vec<usize>> {
        let isa = Isa::current();
        let count = self.updates.len();
        let finite: Vec<bool> = (0..count)
            .into_par_iter()
            .map(|client| self.updates.tensors.iter().all(|tensor| is_finite(isa, tensor.clients[client])))
            .collect();
        for client in (0..count).filter(|&client| !finite[client]) {
            let error = self.updates.not_finite(client);
            match self.config.on_invalid {
                _ if self.config.rule.trusts_last() && client + 1 == count => return Err(error),
                OnInvalid::Error => return Err(error),
                OnInvalid::Drop => log::warn!("an update is dropped: {error}"),
            }
        }
        let clients: Vec<usize> = (0..count).filter(|&client| finite[client]).collect();
        if clients.is_empty() {
            return Err(Error::Config("no update is finite".into()));
        }
        self.config.validate(clients.len())?;
        Ok(clients)
    }

    /// Writes the aggregate of `clients`; nothing if it is not finite.
    fn combine(&self, clients: &[usize], outputs: &mut [ValuesMut]) -> Result<Option<Report>> {
        let (isa, rule, n) = (Isa::current(), &self.config.rule, clients.len());
        let nearest = matches!(self.config.pre_aggregation, Some(PreAggregation::Nnm { .. }));
        let distances = (rule.needs_distances() || nearest).then(|| {
            let zeros = vec![0.0; if rule.uses_reference() { self.updates.longest() } else { 0 }];
            let mut slices = self.updates.slices(clients);
            if rule.uses_reference() {
                self.updates.push_references(&mut slices, &zeros);
            }
            Distances::new(squared_distances(isa, &slices), n, rule.uses_reference())
        });
        let mixture = match (self.config.pre_aggregation, &distances) {
            (Some(PreAggregation::Nnm { f }), Some(distances)) => Some(nearest_neighbours(distances, f)),
            (Some(PreAggregation::Bucketing { bucket_size, seed }), _) => {
                Some(bucketing(n, bucket_size, seed))
            }
            _ => None,
        };
        let distances = match (&mixture, distances) {
            (Some(mixture), Some(distances)) => Some(distances.of_mixture(mixture)),
            (_, distances) => distances,
        };
        let weights = match self.weights {
            Some(weights) if mixture.is_none() => clients.iter().map(|&client| weights[client]).collect(),
            _ => vec![1.0; mixture.as_ref().map_or(n, Vec::len)],
        };
        let decision = rule.decide(&weights, distances.as_ref())?;
        let of_clients = |rows: &[f64]| {
            let values = mixture.as_ref().map_or_else(|| rows.to_vec(), |mixture| through(mixture, rows));
            self.of_all(clients, &values)
        };
        let outputs = outputs.iter_mut().map(ValuesMut::reborrow).collect();
        let mut report = Report {
            dropped: (0..self.updates.len()).filter(|client| !clients.contains(client)).collect(),
            shares: None,
            scores: decision.scores.as_deref().map(of_clients),
        };
        match decision.combination {
            Combination::Columns { rows, statistic } => {
                let pick = |mixture: &Vec<Vec<f64>>| rows.iter().map(|&row| mixture[row].clone()).collect();
                let mixture: Option<Vec<_>> = mixture.as_ref().map(pick);
                let read = match mixture {
                    Some(_) => clients.to_vec(),
                    None => rows.iter().map(|&row| clients[row]).collect(),
                };
                let slices = self.updates.slices(&read);
                column_statistic(isa, &slices, mixture.as_deref(), statistic, outputs);
            }
            Combination::Shares(shares) => {
                let mut factors =
                    mixture.as_ref().map_or_else(|| shares.clone(), |mixture| through(mixture, &shares));
                report.shares = Some(self.of_all(clients, &factors));
                let mut slices = self.updates.slices(clients);
                if rule.uses_reference() && self.updates.has_reference() {
                    factors.push(1.0 - shares.iter().sum::<f64>());
                    self.updates.push_references(&mut slices, &[]);
                }
                if !weighted_sum(isa, &slices, &factors, outputs) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(report))
    }

    /// `values` of `clients` as those of all; 0 for who was dropped.
    fn of_all(&self, clients: &[usize], values: &[f64]) -> Vec<f64> {
        let mut all = vec![0.0; self.updates.len()];
        for (&client, &value) in clients.iter().zip(values) {
            all[client] = value;
        }
        all
    }
}
