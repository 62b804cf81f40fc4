//! The folder of predictions.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;

use mlx_rs::Array;

use super::codec::Codec;
use super::shard::{self, Entry};
use crate::data::{Batch, Examples};
use crate::distill::positions::Positions;
use crate::distill::teacher::{self, Teacher};
use crate::io::atomic;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::train::plan::Plan;
use crate::train::text::data::{TextData, TrainingRows};
use crate::{Error, Result, files, kernels};

/// Positions per file, more if a row has more: what an interruption costs.
const SHARD: usize = 8192;
const ENDING: &str = "topk";

/// Predictions of a teacher for all target tokens of a data set.
#[derive(Debug)]
pub(in crate::distill) struct PredictionCache {
    folder: PathBuf,
    codec: Codec,
    /// File name and place of each row.
    rows: HashMap<u64, (String, Entry)>,
}

impl PredictionCache {
    /// Opens the predictions in `folder` for the `top_k` most likely tokens, and computes those of `data` that are missing with the
    /// teacher that `load` gives; it is not called if there are none.
    ///
    /// # Errors
    /// No space or no permission; logits that are not finite; [`Error::Interrupted`], after which finished files stay.
    pub(in crate::distill) fn prepare(
        folder: PathBuf,
        top_k: usize,
        data: &TextData,
        (positions, plan): (&Positions, &Plan),
        load: impl FnOnce() -> Result<Teacher>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let vocab = positions.vocab.unsigned_abs() as usize;
        let codec = Codec::new(vocab, top_k.min(vocab));
        let mut this = Self { folder, codec, rows: HashMap::new() };
        atomic::create_folder(&this.folder)?;
        this.find()?;
        let TrainingRows::InMemory(train) = &data.train else {
            return Err(Error::Config("teacher_cache and streaming exclude each other".into()));
        };
        // One process computes, and all read.
        if plan.group.leads() {
            let missing = this.missing([train, &data.valid], data);
            if !missing.is_empty() {
                let teacher = load()?;
                this.compute(&teacher, &missing, positions, observer)?;
            }
        }
        plan.group.wait()?;
        if !plan.group.leads() {
            this.find()?;
        }
        Ok(this)
    }

    /// Adds the rows of all files that are whole.
    fn find(&mut self) -> Result<()> {
        let failed = || Error::io("read", &self.folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            names.push(entry.map_err(failed())?.file_name().to_string_lossy().into_owned());
        }
        for name in names {
            let path = self.folder.join(&name);
            if !path.extension().is_some_and(|ending| ending == ENDING) {
                continue;
            }
            match shard::entries(&path, self.codec.record_bytes()) {
                Some(entries) => self.add(&name, entries),
                None => log::warn!("{} is damaged: the teacher computes it again", path.display()),
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, entries: Vec<Entry>) {
        self.rows.extend(entries.into_iter().map(|entry| (entry.key, (name.to_owned(), entry))));
    }

    /// Batches of one row each that have no predictions yet, with their keys.
    fn missing(&self, splits: [&Examples; 2], data: &TextData) -> Vec<(u64, Batch)> {
        let mut seen = HashSet::new();
        let rows = splits.into_iter().flat_map(|examples| {
            (0..examples.len()).map(|index| examples.batch(&[index], data.max_seq_length, data.pad_id))
        });
        let keyed = rows.filter_map(|batch| Some((row_key(&batch, 0)?, batch)));
        keyed.filter(|&(key, _)| !self.rows.contains_key(&key) && seen.insert(key)).collect()
    }

    fn compute(
        &mut self,
        teacher: &Teacher,
        missing: &[(u64, Batch)],
        positions: &Positions,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut rows: Vec<(u64, Vec<u8>)> = Vec::new();
        let total = missing.len() as u64;
        for (done, (key, batch)) in (1..).zip(missing) {
            rows.push((*key, self.predict(teacher, batch, positions)?));
            let bytes: usize = rows.iter().map(|(_, records)| records.len()).sum();
            if bytes >= SHARD * self.codec.record_bytes() || done == total {
                let name = format!("{:016x}.{ENDING}", digest(rows.iter().map(|&(key, _)| key)));
                let path = self.folder.join(&name);
                shard::write(&path, &rows, self.codec.record_bytes())?;
                rows.clear();
                let damaged = || Error::Training(format!("{} cannot be read back", path.display()));
                let entries = shard::entries(&path, self.codec.record_bytes()).ok_or_else(damaged)?;
                self.add(&name, entries);
                let event = Event::Progress { stage: "teacher".to_owned(), done, total };
                if observer.on(&event) == ControlFlow::Break(()) {
                    return Err(Error::Interrupted);
                }
            } else if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// The records of the target positions of a batch of one row.
    fn predict(&self, teacher: &Teacher, batch: &Batch, positions: &Positions) -> Result<Vec<u8>> {
        let inputs = teacher::inputs(batch)?;
        let hidden = teacher.hidden(&batch.ids, &inputs)?.squeeze_axes(&[0])?;
        let targets: Vec<u32> = targets(batch, 0).map(|column| column as u32).collect();
        let top_k = self.codec.top_k();
        let mut records = Vec::new();
        for chunk in targets.chunks(positions.at_once()) {
            let chosen = hidden.take_axis(Array::from_slice(chunk, &[chunk.len() as i32]), 0)?;
            let [tokens, log_probs] = positions.most_likely(teacher.model(), &chosen, top_k as i32)?;
            kernels::eval([&tokens, &log_probs])?;
            let (tokens, log_probs) = (tokens.as_slice::<u32>(), log_probs.as_slice::<f32>());
            if !log_probs.iter().all(|log_prob| log_prob.is_finite()) {
                return Err(Error::ModelLoading(
                    "the logits of the teacher are not finite: its checkpoint is damaged, or its dtype is too narrow"
                        .into(),
                ));
            }
            for (tokens, log_probs) in tokens.chunks(top_k).zip(log_probs.chunks(top_k)) {
                let mut found: Vec<(u32, f32)> =
                    tokens.iter().copied().zip(log_probs.iter().copied()).collect();
                self.codec.encode(&mut found, &mut records);
            }
        }
        Ok(records)
    }

    /// Reads the predictions for `batch`: tokens and their log-probabilities, both `[rows, time, top_k]`. Positions without a target
    /// have any. For a probe nothing is read.
    ///
    /// # Errors
    /// A row that is not there; a file that has changed since the start.
    pub(in crate::distill) fn read(&self, batch: &Batch, is_probe: bool) -> Result<[Array; 2]> {
        let top_k = self.codec.top_k();
        let size = batch.rows * batch.time * top_k;
        let mut all_tokens = vec![0_u32; size];
        let mut all_log_probs = vec![-(top_k as f32 + 1.0).ln(); size];
        for row in 0..if is_probe { 0 } else { batch.rows } {
            let Some(key) = row_key(batch, row) else { continue };
            let records = self.records(key)?;
            let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
            for (record, column) in records.chunks(self.codec.record_bytes()).zip(targets(batch, row)) {
                self.codec.decode(record, &mut tokens, &mut log_probs)?;
                let start = (row * batch.time + column) * top_k;
                all_tokens[start..start + top_k].copy_from_slice(&tokens);
                all_log_probs[start..start + top_k].copy_from_slice(&log_probs);
                tokens.clear();
                log_probs.clear();
            }
        }
        let shape = [batch.rows as i32, batch.time as i32, top_k as i32];
        Ok([Array::from_slice(&all_tokens, &shape), Array::from_slice(&all_log_probs, &shape)])
    }

    fn records(&self, key: u64) -> Result<Vec<u8>> {
        let missing = || Error::Training("the teacher has not predicted a row of the data".into());
        let (name, entry) = self.rows.get(&key).ok_or_else(missing)?;
        let path = self.folder.join(name);
        let mut records = vec![0; entry.positions * self.codec.record_bytes()];
        let mut file = files::open(&path).map_err(Error::io("read", &path))?;
        file.seek(SeekFrom::Start(entry.offset as u64))
            .and_then(|_| file.read_exact(&mut records))
            .map_err(Error::io("read", &path))?;
        Ok(records)
    }
}

/// Columns of the targets of a row.
fn targets(batch: &Batch, row: usize) -> impl Iterator<Item = usize> {
    let weights = &batch.weights[row * batch.time..(row + 1) * batch.time];
    weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0).map(|(column, _)| column)
}

/// Identifies what the teacher reads of a row, and which positions are asked for, whatever its padding; `None` if there are none.
fn row_key(batch: &Batch, row: usize) -> Option<u64> {
    let columns = 0..=targets(batch, row).last()?;
    let at = |column: usize| row * batch.time + column;
    Some(digest(columns.flat_map(|column| {
        let start = batch.starts.as_ref().map_or(0, |starts| starts[at(column)].unsigned_abs());
        let is_target = u64::from(batch.weights[at(column)] > 0.0);
        [u64::from(batch.ids[at(column)].unsigned_abs()) << 1 | is_target, start.into()]
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Sample, collate};

    #[test]
    fn keys_do_not_depend_on_padding() {
        let short = Sample::new(vec![5, 6, 7, 8], |index| index > 1);
        let long = Sample::new(vec![5, 6, 7, 8, 9], |index| index > 1);
        let alone = collate(&[&short], 64, 0);
        let padded = collate(&[&long, &short], 64, 3).pad_to_multiple_of(8, 4);
        assert_eq!(row_key(&alone, 0), row_key(&padded, 1));
        assert_ne!(row_key(&alone, 0), row_key(&padded, 0));
        let other_mask = Sample::new(vec![5, 6, 7, 8], |index| index > 2);
        assert_ne!(row_key(&alone, 0), row_key(&collate(&[&other_mask], 64, 0), 0));
        assert_eq!(row_key(&collate(&[&Sample::new(vec![5, 6], |_| false)], 64, 0), 0), None);
    }
}
