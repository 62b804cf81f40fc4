//! The output folder of a training run: its lock, the identity that a resumed run must match, and its report.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::checkpoint::CheckpointManager;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder, refuse_source};
use crate::io::{atomic, folder};
use crate::kernels::group::Group;
use crate::{Error, Result};

/// File name of the report in the output folder.
pub const REPORT: &str = "training.json";

/// A run that owns its output folder. The first process of the group keeps it locked until this value is dropped.
pub struct Session {
    folder: PathBuf,
    group: Group,
    _lock: Option<OutputFolder>,
}

impl Session {
    /// Opens the folder `output` for a run on the model in `source`. `results` are the names of the files that the
    /// run will write.
    ///
    /// # Errors
    /// The folder of the model itself, a folder locked by another run, or results that `existing` says to keep.
    pub fn open(
        output: &str,
        source: &Path,
        results: &[&str],
        existing: IfExists,
        group: Group,
    ) -> Result<Self> {
        let folder = PathBuf::from(output);
        refuse_source(source, &folder)?;
        let results = all_results(results);
        let lock = group
            .leads()
            .then(|| OutputFolder::open(&folder, &results, CHECKPOINTS, existing))
            .transpose()?;
        group.wait()?;
        Ok(Self { folder, group, _lock: lock })
    }

    /// Checks that a run whose results are `results` may use the folder `output`, without creating it.
    ///
    /// # Errors
    /// Results that `existing` says to keep; nothing to resume.
    pub fn check(output: &str, results: &[&str], existing: IfExists) -> Result<()> {
        OutputFolder::check(Path::new(output), &all_results(results), CHECKPOINTS, existing)
    }

    /// The output folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The checkpoint folder.
    #[must_use]
    pub fn checkpoint_folder(&self) -> PathBuf {
        self.folder.join(CHECKPOINTS)
    }

    /// Returns what a resumed run must match: the `settings` that affect the loss curve, the global batch size,
    /// and the fingerprints of the data and of the model in `source`.
    ///
    /// # Errors
    /// A model folder that cannot be read.
    pub fn identity(
        &self,
        mut settings: Value,
        batch_size: usize,
        data: &str,
        source: &Path,
    ) -> Result<Value> {
        settings["batch_size"] = json!(batch_size * self.group.size());
        settings["data"] = json!(data);
        settings["model"] = json!(folder::fingerprint(source)?);
        Ok(settings)
    }

    /// Returns the checkpoint manager of a run with this `identity`, which keeps the `keep` newest checkpoints.
    #[must_use]
    pub fn checkpoints(&self, identity: Value, keep: usize) -> CheckpointManager {
        CheckpointManager::new(self.checkpoint_folder(), identity, keep)
    }

    /// Writes the result with `save`, and the report. Only the first process writes.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn finish(
        &self,
        config: &impl Serialize,
        report: &impl Serialize,
        save: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        if self.group.leads() {
            // Somebody may have removed it during the run.
            fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
            save(&self.folder)?;
            let text = serde_json::to_string_pretty(&json!({"config": config, "report": report}));
            atomic::write_text(&self.folder.join(REPORT), &(text.unwrap_or_default() + "\n"))?;
        }
        Ok(self.group.wait()?)
    }
}

/// The report, and the files that a run writes.
fn all_results<'a>(results: &[&'a str]) -> Vec<&'a str> {
    std::iter::once(REPORT).chain(results.iter().copied()).collect()
}
