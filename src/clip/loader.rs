//! Batches of image–text pairs, decoded on all cores while the model computes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::dataset::{Dataset, Example};
use super::load::Processor;
use crate::data::ImageSource;
use crate::kernels::group::Group;
use crate::progress::Observer;
use crate::rng::digest;
use crate::train::plan::Plan;
use crate::train::settings::Settings;
use crate::train::task::batch::Batch;
use crate::train::task::data::{DataLoader, DataModule};
use crate::train::task::max_tokens::MaxTokens;
use crate::{Error, Result};

/// Batches that are decoded ahead.
const AHEAD: usize = 2;

/// Decoded pairs.
#[derive(Debug, Clone)]
pub(super) struct PairBatch {
    pub rows: usize,
    /// `[rows, size, size, 3]`.
    pub pixels: Vec<f32>,
    /// `[rows, context]`.
    pub ids: Vec<u32>,
}

impl Batch for PairBatch {
    fn rows(&self) -> usize {
        self.rows
    }

    fn row_length(&self) -> usize {
        1
    }

    fn tokens(&self) -> usize {
        self.rows
    }

    /// A part of a batch would have fewer negatives.
    fn is_divisible(&self) -> bool {
        false
    }
}

/// Data of a run.
pub(super) struct PairData<'a> {
    pub dataset: &'a Dataset,
    pub processor: &'a Processor,
}

impl PairData<'_> {
    /// Decodes `examples` with the text that each has in epoch `epoch`.
    fn batch(&self, examples: &[(usize, &Example)], seed: u64, epoch: u64) -> Result<PairBatch> {
        let sources: Vec<ImageSource> =
            examples.iter().map(|(_, example)| ImageSource::File(example.image.clone())).collect();
        let text = |(number, example): &(usize, &Example)| {
            let choice = digest([seed, epoch, *number as u64]) % example.texts.len() as u64;
            example.texts[choice as usize].clone()
        };
        Ok(PairBatch {
            rows: examples.len(),
            pixels: self.processor.images.process(&sources)?,
            ids: examples.iter().flat_map(text).collect(),
        })
    }

    /// Decodes all images for validation, so that one that cannot be read is named before the first step.
    ///
    /// # Errors
    /// The first that cannot be decoded; [`Error::Interrupted`].
    pub(super) fn check_validation(&self, settings: &Settings, observer: &mut dyn Observer) -> Result<()> {
        let limit = if settings.eval_batches == 0 { usize::MAX } else { settings.eval_batches };
        for batch in self.dataset.valid.chunks(settings.batch_size.max(2)).take(limit) {
            if observer.poll().is_break() {
                return Err(Error::Interrupted);
            }
            self.batch(&batch.iter().enumerate().collect::<Vec<_>>(), settings.seed, 0)?;
        }
        Ok(())
    }

    /// Numbers of the examples of batch `number`, this process's share.
    fn numbers(&self, number: u64, order: &Order) -> (u64, Vec<usize>) {
        let count = self.dataset.train.len();
        let per_epoch = order.per_epoch(count);
        let epoch = number / per_epoch;
        let mut rng = ChaCha8Rng::seed_from_u64(order.seed);
        rng.set_stream(epoch);
        let mut all: Vec<usize> = (0..count).collect();
        all.shuffle(&mut rng);
        let start = (number % per_epoch) as usize * order.batch_size;
        let own = all.into_iter().skip(start).take(order.batch_size);
        (epoch, own.skip(order.group.rank()).step_by(order.group.size()).collect())
    }
}

/// What determines the order of batches.
#[derive(Debug, Clone, Copy)]
struct Order {
    seed: u64,
    batch_size: usize,
    group: Group,
}

impl Order {
    /// The last batch is left out where it has a single pair, which has no negatives.
    fn per_epoch(&self, count: usize) -> u64 {
        let batches = count.div_ceil(self.batch_size);
        let alone = count % self.batch_size == 1 && batches > 1;
        (batches - usize::from(alone)).max(1) as u64
    }
}

struct PairLoader {
    incoming: Receiver<Result<(u64, PairBatch)>>,
    /// Batches of the current step, and those received with them.
    received: VecDeque<(u64, PairBatch)>,
    per_epoch: u64,
}

impl DataLoader for PairLoader {
    type Batch = PairBatch;

    fn get(&mut self, numbers: Range<u64>, _: MaxTokens) -> Result<Vec<Vec<PairBatch>>> {
        self.received.retain(|(number, _)| *number >= numbers.start);
        while self.received.back().is_none_or(|(number, _)| number + 1 < numbers.end) {
            let stopped = |_| Error::Training("the thread that reads the images has stopped".into());
            let (number, batch) = self.incoming.recv().map_err(stopped)??;
            if number >= numbers.start {
                self.received.push_back((number, batch));
            }
        }
        let wanted = self.received.iter().filter(|(number, _)| numbers.contains(number));
        Ok(wanted.map(|(_, batch)| vec![batch.clone()]).collect())
    }

    fn epoch(&self, number: u64) -> f64 {
        number as f64 / self.per_epoch as f64
    }
}

impl DataModule for PairData<'_> {
    type Batch = PairBatch;

    fn len(&self) -> usize {
        self.dataset.train.len()
    }

    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = PairBatch> + 'env> {
        let &Plan { seed, batch_size, group, .. } = plan;
        let order = Order { seed, batch_size: batch_size.max(1), group };
        let (send, incoming) = sync_channel(AHEAD);
        scope.spawn(move || {
            for number in first.. {
                let (epoch, numbers) = self.numbers(number, &order);
                let examples: Vec<(usize, &Example)> =
                    numbers.into_iter().map(|i| (i, &self.dataset.train[i])).collect();
                let batch = self.batch(&examples, seed, epoch).map(|batch| (number, batch));
                let failed = batch.is_err();
                // Nobody listens when the run has ended.
                if send.send(batch).is_err() || failed {
                    break;
                }
            }
        });
        let per_epoch = order.per_epoch(self.dataset.train.len());
        Box::new(PairLoader { incoming, received: VecDeque::new(), per_epoch })
    }

    fn has_validation(&self) -> bool {
        self.dataset.valid.len() > 1
    }

    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        group: Group,
        _: MaxTokens,
    ) -> Box<dyn Iterator<Item = PairBatch> + 'a> {
        let limit = if plan.eval_batches == 0 { usize::MAX } else { plan.eval_batches };
        let batches =
            self.dataset.valid.chunks(plan.batch_size.max(2)).filter(|batch| batch.len() > 1).take(limit);
        Box::new(batches.filter_map(move |batch| {
            let own: Vec<(usize, &Example)> =
                batch.iter().enumerate().skip(group.rank()).step_by(group.size()).collect();
            // Checked when the run began.
            self.batch(&own, plan.seed, 0).ok()
        }))
    }

    fn longest_row(&self) -> usize {
        1
    }

    fn probe_batch(&self, _: usize) -> PairBatch {
        let size = self.processor.images.size() as usize;
        let ids = self.dataset.train.first().and_then(|example| example.texts.first().cloned());
        PairBatch { rows: 1, pixels: vec![0.0; size * size * 3], ids: ids.unwrap_or_default() }
    }
}
