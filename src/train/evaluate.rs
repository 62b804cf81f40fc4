//! Scoring a model on held-out data.

use std::ops::ControlFlow;

use super::batches::divide;
use super::feed::Feed;
use super::memory::PassSize;
use super::objective::{Objective, Scored, Totals};
use super::passes;
use super::rewards::{RewardSum, Rewards};
use crate::data::{Batch, Examples};
use crate::kernels::group::Group;
use crate::models::LanguageModel;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// The loss of the objective; of SFT in nats per target token.
    pub loss: f64,
    /// Of pairs.
    pub rewards: Option<Rewards>,
}

/// The loss over the first `max_batches` batches of `batch_size` (0: all of them), as if they were one, of which `size`
/// goes through the model at once.
///
/// # Errors
/// What MLX raises; [`Error::Interrupted`] when the observer stops it.
pub fn evaluate(
    model: &dyn LanguageModel,
    objective: &Objective,
    examples: &Examples,
    plan: EvaluationPlan,
    size: PassSize,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    let order: Vec<usize> = (0..examples.len()).collect();
    let limit = if plan.max_batches == 0 { usize::MAX } else { plan.max_batches };
    let batches = |plan: EvaluationPlan| {
        let batch = move |rows: &[usize]| -> Vec<Batch> { divide(examples, rows, plan, size) };
        order.chunks(plan.batch_size).take(limit).flat_map(batch)
    };
    // Those of all processes, without asking them: who runs out of memory begins again while others go on.
    let all = batches(EvaluationPlan { group: Group::ALONE, ..plan });
    let totals = all.fold(Totals::default(), |sum, batch| sum + objective.totals([&batch]));
    let (mut loss, mut rewards) = (0.0, RewardSum::default());
    let mut add = |scored: &Scored| -> Result<()> {
        let (of_batch, of_pairs) = passes::read(std::slice::from_ref(scored))?;
        loss += of_batch;
        rewards.merge(of_pairs);
        Ok(())
    };
    // A GPU is given the next batch before the figures of the last one are read.
    let mut pending: Option<Scored> = None;
    for batch in batches(plan) {
        if observer.poll() == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
        let feed = Feed::new(objective, &batch, totals, None)?;
        let scored = objective.loss(model, &feed, false)?;
        if kernels::on_cpu() {
            add(&scored)?;
        } else {
            kernels::async_eval(scored.arrays())?;
            pending.replace(scored).iter().try_for_each(&mut add)?;
        }
    }
    pending.iter().try_for_each(add)?;
    let [loss, rest @ ..] = plan.group.all_sum_f64(rewards.with(loss))?;
    Ok(Evaluation { loss, rewards: RewardSum::from(rest).mean() })
}

/// How [`evaluate`] cuts the data.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationPlan {
    /// Rows or pairs per batch, of which each process of the group reads its share.
    pub batch_size: usize,
    /// The processes.
    pub group: Group,
    /// Batches scored; 0 for all.
    pub max_batches: usize,
    /// Tokens per row beyond which a row is cut.
    pub max_seq_length: usize,
    /// Token that fills short rows.
    pub pad: u32,
}
