//! What the model reads in which step.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use super::evaluate::EvaluationPlan;
use super::memory::PassSize;
use super::plan::Plan;
use crate::data::{Batch, Examples, Megabatch, Megabatches, Sample, StreamingDataset, epoch_batches};
use crate::models::check_tokens;
use crate::{Error, Result};

/// What to train on.
#[derive(Debug)]
pub struct Data<'t> {
    /// Rows to learn.
    pub train: Training<'t>,
    /// Rows to score; may be empty.
    pub valid: Examples,
}

/// Rows to learn.
#[derive(Debug)]
pub enum Training<'t> {
    /// All of them in memory.
    Whole(Examples),
    /// On disk until they are needed.
    Streamed(StreamingDataset<'t>),
}

impl Training<'_> {
    /// Number of examples; of those on disk before they are packed.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Whole(examples) => examples.len(),
            Self::Streamed(streamed) => streamed.rows().len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of one example.
    pub(super) const fn rows_per_example(&self) -> usize {
        match self {
            Self::Whole(examples) => examples.rows_per_example(),
            Self::Streamed(streamed) => streamed.labels().samples_per_row(),
        }
    }

    /// Tokens of the longest row, at most `max_seq_length`; of rows on disk nothing else is known.
    pub(super) fn longest(&self, max_seq_length: usize) -> usize {
        match self {
            Self::Whole(examples) => {
                examples.samples().iter().map(Sample::len).max().unwrap_or(0).min(max_seq_length)
            }
            Self::Streamed(_) => max_seq_length,
        }
    }

    /// A row of at least `tokens` tokens to try, if any has as many.
    pub(super) fn probe(&self, tokens: usize) -> Sample {
        let longest = match self {
            Self::Whole(examples) => examples.samples().iter().max_by_key(|sample| sample.len()).cloned(),
            Self::Streamed(_) => None,
        };
        longest.unwrap_or_else(|| Sample::new(vec![0; tokens], |_| true))
    }
}

/// Batches in one pass over so many examples.
#[must_use]
pub fn batches_per_epoch(examples: usize, batch_size: usize) -> u64 {
    examples.div_ceil(batch_size.max(1)) as u64
}

/// [Megabatches] of tokens below `vocab`.
pub(crate) fn windows<'a>(
    streamed: &'a StreamingDataset,
    batch_size: usize,
    seed: u64,
    first: u64,
    vocab: i32,
) -> impl Iterator<Item = Result<Megabatch>> + 'a {
    Megabatches::new(streamed, batch_size, seed, first).map(move |window| {
        let window = window?;
        check_tokens(window.examples.samples().iter().flat_map(|sample| &sample.ids), vocab)?;
        Ok(window)
    })
}

/// The endless sequence of epochs. A batch depends on its number alone, so that a resumed run finds its place.
#[derive(Debug)]
pub(super) struct Batches<'a> {
    order: Order<'a>,
    batch_size: usize,
    cut: EvaluationPlan,
}

#[derive(Debug)]
enum Order<'a> {
    Whole {
        examples: &'a Examples,
        seed: u64,
        /// Epoch and its batches.
        current: Option<(u64, Vec<Vec<usize>>)>,
    },
    Streamed {
        incoming: Receiver<Result<Megabatch>>,
        /// Those of the step, and what came with them.
        windows: VecDeque<Megabatch>,
    },
}

impl<'a> Batches<'a> {
    /// Batches of `train` as `plan` says, the first of which is number `first`; tokens are below `vocab`. What is on disk
    /// is read by a thread of its own, one window ahead of need.
    pub(super) fn new<'scope>(
        train: &'a Training<'a>,
        plan: &Plan,
        vocab: i32,
        first: u64,
        scope: &'scope Scope<'scope, 'a>,
    ) -> Self {
        let &Plan { batch_size, seed, evaluation: cut, .. } = plan;
        let order = match train {
            Training::Whole(examples) => Order::Whole { examples, seed, current: None },
            Training::Streamed(streamed) => {
                let (send, incoming) = sync_channel(1);
                let windows = windows(streamed, batch_size, seed, first, vocab);
                scope.spawn(move || {
                    for window in windows {
                        let failed = window.is_err();
                        // Nobody listens when the run has ended.
                        if send.send(window).is_err() || failed {
                            break;
                        }
                    }
                });
                Order::Streamed { incoming, windows: VecDeque::new() }
            }
        };
        Self { order, batch_size, cut }
    }

    /// Passes over the data before batch number `index`, one of those that [`get`](Self::get) returned last or the next,
    /// fractional.
    pub(super) fn epoch(&self, index: u64) -> f64 {
        match &self.order {
            Order::Whole { examples, .. } => {
                index as f64 / batches_per_epoch(examples.len(), self.batch_size) as f64
            }
            Order::Streamed { windows, .. } => {
                let holds = |window: &&Megabatch| (window.first..=window.end()).contains(&index);
                windows.iter().find(holds).map_or(0.0, |window| {
                    let [before, after] = window.epochs;
                    before + (after - before) * (index - window.first) as f64 / window.batches.len() as f64
                })
            }
        }
    }

    /// Batches of these numbers, each in parts of at most `size`. Numbers never fall, but may be asked for again.
    ///
    /// # Errors
    /// Rows on disk that cannot be read or are wrong, by file and place.
    pub(super) fn get(&mut self, numbers: Range<u64>, size: PassSize) -> Result<Vec<Vec<Batch>>> {
        let &mut Self { batch_size, cut, .. } = self;
        match &mut self.order {
            Order::Whole { examples, seed, current } => {
                let per_epoch = batches_per_epoch(examples.len(), batch_size);
                let batch = |index: u64| {
                    let epoch = index / per_epoch;
                    if current.as_ref().is_none_or(|(of, _)| *of != epoch) {
                        *current =
                            Some((epoch, epoch_batches(&examples.lengths(), batch_size, *seed, epoch)));
                    }
                    let numbers =
                        current.iter().flat_map(|(_, batches)| &batches[(index % per_epoch) as usize]);
                    divide(examples, &numbers.copied().collect::<Vec<_>>(), cut, size)
                };
                Ok(numbers.map(batch).collect())
            }
            Order::Streamed { incoming, windows } => {
                windows.retain(|window| window.end() > numbers.start);
                while windows.back().is_none_or(|window| window.end() < numbers.end) {
                    let stopped = |_| Error::Training("the thread that reads the data has stopped".into());
                    let window = incoming.recv().map_err(stopped)??;
                    // Packed rows are counted from the beginning.
                    if window.end() > numbers.start {
                        windows.push_back(window);
                    }
                }
                let batch = |index: u64| {
                    let holds = |window: &&Megabatch| (window.first..window.end()).contains(&index);
                    let of = |window: &Megabatch| {
                        divide(&window.examples, &window.batches[(index - window.first) as usize], cut, size)
                    };
                    windows.iter().find(holds).map(of)
                };
                Ok(numbers.filter_map(batch).collect())
            }
        }
    }
}

/// This process's share of the examples of these numbers, in batches of at most `size`, each as long as its own longest
/// row. Pairs stay whole.
pub(super) fn divide(
    examples: &Examples,
    numbers: &[usize],
    cut: EvaluationPlan,
    size: PassSize,
) -> Vec<Batch> {
    let numbers: Vec<usize> =
        numbers.iter().skip(cut.group.rank()).step_by(cut.group.size()).copied().collect();
    let longest = numbers.iter().map(|&number| examples.length(number).min(cut.max_seq_length)).max();
    let at_once = (size.rows(longest.unwrap_or(0)) / examples.rows_per_example()).max(1);
    numbers.chunks(at_once).map(|part| examples.batch(part, cut.max_seq_length, cut.pad)).collect()
}
