//! Distillation runs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::config::DistillConfig;
use super::positions::{Positions, TeacherHead};
use super::predictions::PredictionCache;
use super::rollout::Rollouts;
use super::task::{DistillationTask, Source};
use super::teacher::{self, Teacher};
use crate::data::Tokenizer;
use crate::io::{checkpoint, folder, tensors};
use crate::lora::{self, Report, TaskFactory, TrainingConfig};
use crate::models::Model;
use crate::progress::Observer;
use crate::rng::digest;
use crate::train::plan::Plan;
use crate::train::text::data::TextData;
use crate::train::text::task::TextTask;
use crate::{Error, Result};

/// A teacher that is loaded when it is needed.
#[derive(Debug, Clone, Copy)]
pub struct TeacherSource<'a> {
    /// Model folder or GGUF file.
    pub folder: &'a Path,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

/// Trains `model`, loaded from the folder `source`, to predict what the `teacher` predicts; `training` is as for fine-tuning.
/// `model` holds the result afterwards.
///
/// # Errors
/// Those of [`lora::run`]; a teacher with another vocabulary or that cannot be loaded.
pub fn run(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    (training, config): (&TrainingConfig, &DistillConfig),
    teacher: TeacherSource,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate(training)?;
    check_teacher(tokenizer, teacher)?;
    let factory = Factory {
        tokenizer,
        training,
        config,
        teacher: teacher.folder,
        fingerprint: folder::fingerprint(teacher.folder)?,
    };
    lora::run_task(model, tokenizer, source, training, factory, observer)
}

/// Checks that the student, whose `tokenizer` is given, and the `teacher` have the same vocabulary. Embeddings of padding may
/// differ in number.
///
/// # Errors
/// The first token that differs; a teacher that is not a model.
fn check_teacher(tokenizer: &Tokenizer, teacher: TeacherSource) -> Result<()> {
    if let Some((id, own, other)) = tokenizer.first_difference(teacher.tokenizer) {
        let shown = |token: Option<String>| token.map_or("nothing".to_owned(), |token| format!("{token:?}"));
        return Err(Error::Config(format!(
            "teacher: {} has another vocabulary than the student: {} and {} tokens, and token {id} is {} there and {} in the \
             student. Distillation needs the same tokenizer: choose a teacher and a student of one family",
            teacher.folder.display(),
            teacher.tokenizer.vocab_size(),
            tokenizer.vocab_size(),
            shown(other),
            shown(own),
        )));
    }
    vocab_size(teacher.folder).map(|_| ())
}

/// Size of the vocabulary of the model in `folder`, which is not loaded.
fn vocab_size(folder: &Path) -> Result<i32> {
    let config = checkpoint::config(folder)?;
    let size = config["vocab_size"].as_i64().and_then(|size| i32::try_from(size).ok());
    size.filter(|&size| size > 0).ok_or_else(|| {
        let place = checkpoint::config_place(folder);
        Error::ModelLoading(format!("{}: \"vocab_size\" is missing", place.display()))
    })
}

struct Factory<'a> {
    tokenizer: &'a Tokenizer,
    training: &'a TrainingConfig,
    config: &'a DistillConfig,
    teacher: &'a Path,
    fingerprint: String,
}

impl<'a> TaskFactory for Factory<'a> {
    type Task = DistillationTask<'a>;

    fn add_identity(&self, settings: &mut Value) {
        settings["teacher"] = json!(self.fingerprint);
        settings["distillation"] = self.config.identity();
    }

    fn create(
        self,
        text: TextTask,
        data: &TextData,
        plan: &Plan,
        observer: &mut dyn Observer,
    ) -> Result<DistillationTask<'a>> {
        let Self { tokenizer, training, config, teacher: folder, .. } = self;
        let dtype = training.dtype.as_deref().map(tensors::dtype).transpose()?;
        let load = || Teacher::load(folder, dtype);
        let mut positions = Positions {
            teacher: TeacherHead::Listed,
            divergence: config.divergence(),
            temperature: config.temperature as f32,
            vocab: data.vocab_size.min(vocab_size(folder)?),
        };
        let source = if let Some(cache) = &config.teacher_cache {
            let top_k = config.teacher_top_k;
            let place = cache_folder(Path::new(cache), folder, tokenizer, (&positions, top_k))?;
            let cached = PredictionCache::prepare(place, top_k, data, (&positions, plan), load, observer)?;
            Source::Cached(cached)
        } else {
            let teacher = load()?;
            positions.teacher = teacher.head();
            Source::Live(teacher)
        };
        let rollouts = (config.on_policy > 0.0).then(|| Rollouts {
            tokenizer,
            share: config.on_policy,
            max_new_tokens: config.max_new_tokens,
            max_seq_length: training.max_seq_length,
            seed: training.seed,
            pad_id: data.pad_id,
        });
        let selection = config.select_tokens.map(|selection| (selection, config.select_share));
        Ok(DistillationTask { text, source, positions, alpha: config.alpha as f32, selection, rollouts })
    }
}

/// Folder below `cache` of the predictions of one teacher with some settings. Rows are found by their tokens, so that data sets
/// share it.
fn cache_folder(
    cache: &Path,
    teacher: &Path,
    tokenizer: &Tokenizer,
    (positions, top_k): (&Positions, usize),
) -> Result<PathBuf> {
    let content = teacher::content_digest(teacher)?;
    let numbers = [
        (content >> 64) as u64,
        content as u64,
        positions.temperature.to_bits().into(),
        u64::from(positions.vocab.unsigned_abs()),
        top_k as u64,
    ];
    let vocabulary = tokenizer.fingerprint();
    let identity = digest(numbers.into_iter().chain(vocabulary.bytes().map(u64::from)));
    Ok(cache.join(format!("{identity:016x}")))
}
