//! Batches of a language model.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use super::data::{TextData, TrainingRows, batches_per_epoch, megabatches};
use crate::data::{Batch, Examples, Megabatch, collate, epoch_batches};
use crate::kernels::group::Group;
use crate::train::plan::Plan;
use crate::train::task::data::{DataLoader, DataModule};
use crate::train::task::max_tokens::MaxTokens;
use crate::{Error, Result};

/// The endless sequence of training batches.
#[derive(Debug)]
pub(super) struct TextLoader<'a> {
    data: &'a TextData<'a>,
    source: Source<'a>,
    batch_size: usize,
    group: Group,
}

#[derive(Debug)]
enum Source<'a> {
    InMemory {
        examples: &'a Examples,
        seed: u64,
        /// The current epoch and its batches.
        current: Option<(u64, Vec<Vec<usize>>)>,
    },
    Streamed {
        incoming: Receiver<Result<Megabatch>>,
        /// Megabatches of the current step, and those received with them.
        megabatches: VecDeque<Megabatch>,
    },
}

impl<'a> TextLoader<'a> {
    /// Creates the training batches of `data`, starting with number `first`. Rows on disk are read by a background
    /// thread, one megabatch ahead.
    pub(super) fn new<'scope>(
        data: &'a TextData<'a>,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'a>,
    ) -> Self {
        let &Plan { batch_size, seed, group, .. } = plan;
        let source = match &data.train {
            TrainingRows::InMemory(examples) => Source::InMemory { examples, seed, current: None },
            TrainingRows::Streamed(streamed) => {
                let (send, incoming) = sync_channel(1);
                let megabatches = megabatches(streamed, batch_size, seed, first, data.vocab_size);
                scope.spawn(move || {
                    for megabatch in megabatches {
                        let failed = megabatch.is_err();
                        // Nobody listens when the run has ended.
                        if send.send(megabatch).is_err() || failed {
                            break;
                        }
                    }
                });
                Source::Streamed { incoming, megabatches: VecDeque::new() }
            }
        };
        Self { data, source, batch_size, group }
    }
}

impl DataLoader for TextLoader<'_> {
    type Batch = Batch;

    fn epoch(&self, index: u64) -> f64 {
        match &self.source {
            Source::InMemory { examples, .. } => {
                index as f64 / batches_per_epoch(examples.len(), self.batch_size) as f64
            }
            Source::Streamed { megabatches, .. } => {
                let holds = |megabatch: &&Megabatch| (megabatch.first..=megabatch.end()).contains(&index);
                megabatches.iter().find(holds).map_or(0.0, |megabatch| {
                    let [before, after] = megabatch.epochs;
                    before
                        + (after - before) * (index - megabatch.first) as f64 / megabatch.batches.len() as f64
                })
            }
        }
    }

    fn get(&mut self, numbers: Range<u64>, max_tokens: MaxTokens) -> Result<Vec<Vec<Batch>>> {
        let &mut Self { data, batch_size, group, .. } = self;
        match &mut self.source {
            Source::InMemory { examples, seed, current } => {
                let per_epoch = batches_per_epoch(examples.len(), batch_size);
                let batch = |index: u64| {
                    let epoch = index / per_epoch;
                    if current.as_ref().is_none_or(|(of, _)| *of != epoch) {
                        *current =
                            Some((epoch, epoch_batches(&examples.lengths(), batch_size, *seed, epoch)));
                    }
                    let numbers =
                        current.iter().flat_map(|(_, batches)| &batches[(index % per_epoch) as usize]);
                    data.split_batch(examples, &numbers.copied().collect::<Vec<_>>(), group, max_tokens)
                };
                Ok(numbers.map(batch).collect())
            }
            Source::Streamed { incoming, megabatches } => {
                megabatches.retain(|megabatch| megabatch.end() > numbers.start);
                while megabatches.back().is_none_or(|megabatch| megabatch.end() < numbers.end) {
                    let stopped = |_| Error::Training("the thread that reads the data has stopped".into());
                    let megabatch = incoming.recv().map_err(stopped)??;
                    // Packed rows are counted from the beginning.
                    if megabatch.end() > numbers.start {
                        megabatches.push_back(megabatch);
                    }
                }
                let batch = |index: u64| {
                    let holds = |megabatch: &&Megabatch| (megabatch.first..megabatch.end()).contains(&index);
                    let of = |megabatch: &Megabatch| {
                        let indices = &megabatch.batches[(index - megabatch.first) as usize];
                        data.split_batch(&megabatch.examples, indices, group, max_tokens)
                    };
                    megabatches.iter().find(holds).map(of)
                };
                Ok(numbers.filter_map(batch).collect())
            }
        }
    }
}

impl DataModule for TextData<'_> {
    type Batch = Batch;

    fn len(&self) -> usize {
        self.train.len()
    }

    fn rows_per_example(&self) -> usize {
        self.train.rows_per_example()
    }

    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = Batch> + 'env> {
        Box::new(TextLoader::new(self, plan, first, scope))
    }

    fn has_validation(&self) -> bool {
        !self.valid.is_empty()
    }

    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        group: Group,
        max_tokens: MaxTokens,
    ) -> Box<dyn Iterator<Item = Batch> + 'a> {
        let limit = if plan.eval_batches == 0 { usize::MAX } else { plan.eval_batches };
        let starts = (0..self.valid.len()).step_by(plan.batch_size.max(1)).take(limit);
        Box::new(starts.flat_map(move |start| {
            let indices: Vec<usize> = (start..self.valid.len().min(start + plan.batch_size)).collect();
            self.split_batch(&self.valid, &indices, group, max_tokens)
        }))
    }

    fn longest_row(&self) -> usize {
        self.train.longest(self.max_seq_length).saturating_sub(1).max(1)
    }

    fn probe_batch(&self, length: usize) -> Batch {
        let sample = self.train.probe_sample(length + 1);
        let mut batch = collate(&[&sample], length + 1, self.pad_id);
        // Heads skip what is not learned, but the next row may be learned in full.
        batch.weights.fill(1.0);
        batch
    }
}
