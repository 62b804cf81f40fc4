//! Checkpoints on disk.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::best::BestParameters;
use super::state::{History, TrainingState};
use crate::io::atomic::{self, NewFolder};
use crate::io::tensors;
use crate::params::Tensors;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::optimizer::OptimizerState;
use crate::{Error, Result, files};

const STEP_PREFIX: &str = "step-";
const HOOKS_FILE: &str = "method.safetensors";
/// Largest `state.json` that is read, in bytes; a million steps have some ten million.
const MAX_STATE: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct StateFile {
    step: u64,
    updates: u64,
    history: History,
    /// Step and loss of the best parameters.
    best: Option<(u64, f64)>,
    loss_scale: Option<LossScale>,
    /// Settings that affect the loss curve; a run with other values cannot resume.
    identity: Value,
}

/// Writes and reads the checkpoints of a run.
#[derive(Debug, Clone)]
pub struct CheckpointManager {
    folder: PathBuf,
    identity: Value,
    keep: usize,
    /// Name and content of a file that all checkpoints need.
    shared_file: Option<(&'static str, String)>,
}

impl CheckpointManager {
    /// Creates a manager for the checkpoints in `folder` that keeps the `keep` newest. `identity` is a JSON object
    /// of all settings that affect the loss curve.
    #[must_use]
    pub fn new(folder: PathBuf, identity: Value, keep: usize) -> Self {
        Self { folder, identity, keep: keep.max(1), shared_file: None }
    }

    /// Adds a file next to the checkpoints that all of them need.
    #[must_use]
    pub fn with_shared_file(self, name: &'static str, text: String) -> Self {
        Self { shared_file: Some((name, text)), ..self }
    }

    /// Atomically saves `state` and removes the oldest checkpoints. Returns the folder.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn save(&self, state: &TrainingState) -> Result<PathBuf> {
        let target = self.folder.join(format!("{STEP_PREFIX}{:07}", state.step));
        let folder = NewFolder::begin(&target)?;
        tensors::write(&folder.path().join("parameters.safetensors"), &state.parameters, &[])?;
        tensors::write(&folder.path().join("optimizer.safetensors"), &state.optimizer.tensors, &[])?;
        if !state.hooks.is_empty() {
            tensors::write(&folder.path().join(HOOKS_FILE), &state.hooks, &[])?;
        }
        if let Some(best) = &state.best {
            tensors::write(&folder.path().join("best.safetensors"), &best.parameters, &[])?;
        }
        let file = StateFile {
            step: state.step,
            updates: state.optimizer.updates,
            history: state.history.clone(),
            best: state.best.as_ref().map(|best| (best.step, best.loss)),
            loss_scale: state.loss_scale,
            identity: self.identity.clone(),
        };
        let json = serde_json::to_string(&file)
            .map_err(|error| Error::Training(format!("cannot store the state of the run: {error}")))?;
        atomic::write_text(&folder.path().join("state.json"), &json)?;
        if let Some((name, text)) = &self.shared_file {
            let path = self.folder.join(name);
            if fs::read_to_string(&path).ok().as_ref() != Some(text) {
                atomic::write_text(&path, text)?;
            }
        }
        folder.finish()?;
        let stored = self.stored();
        for (_, old) in &stored[..stored.len().saturating_sub(self.keep)] {
            fs::remove_dir_all(old).map_err(Error::io("remove", old))?;
        }
        Ok(target)
    }

    /// Loads the newest checkpoint; `None` if there is none yet.
    ///
    /// # Errors
    /// A damaged checkpoint, or one of a run with other settings.
    pub fn load_latest(&self) -> Result<Option<TrainingState>> {
        self.stored().last().map(|(_, folder)| self.load(folder)).transpose()
    }

    /// Returns the step of the newest checkpoint.
    #[must_use]
    pub fn latest_step(&self) -> Option<u64> {
        self.stored().last().map(|&(step, _)| step)
    }

    /// Steps and folders of the complete checkpoints, oldest first.
    fn stored(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut stored: Vec<_> = entries
            .filter_map(|entry| {
                let step = entry.file_name().to_str()?.strip_prefix(STEP_PREFIX)?.parse().ok()?;
                Some((step, entry.path()))
            })
            .collect();
        stored.sort();
        stored
    }

    fn load(&self, folder: &Path) -> Result<TrainingState> {
        files::guard(folder, Error::Training, || self.load_unguarded(folder))
    }

    fn load_unguarded(&self, folder: &Path) -> Result<TrainingState> {
        let path = folder.join("state.json");
        let text = files::read_to_string(&path, MAX_STATE).map_err(Error::io("read", &path))?;
        let file: StateFile = serde_json::from_str(&text)
            .map_err(|error| Error::Training(format!("{}: {error}", path.display())))?;
        self.check_identity(&file.identity, folder)?;
        let read = |name: &str| -> Result<Tensors> { tensors::read(&folder.join(name)) };
        let best = match file.best {
            Some((step, loss)) => Some(BestParameters { step, loss, parameters: read("best.safetensors")? }),
            None => None,
        };
        Ok(TrainingState {
            step: file.step,
            parameters: read("parameters.safetensors")?,
            optimizer: OptimizerState { tensors: read("optimizer.safetensors")?, updates: file.updates },
            hooks: if folder.join(HOOKS_FILE).exists() { read(HOOKS_FILE)? } else { Tensors::new() },
            history: file.history,
            best,
            loss_scale: file.loss_scale,
        })
    }

    fn check_identity(&self, stored: &Value, folder: &Path) -> Result<()> {
        let empty = serde_json::Map::new();
        let (now, then) = (self.identity.as_object().unwrap_or(&empty), stored.as_object().unwrap_or(&empty));
        let changed: Vec<String> = now
            .iter()
            .filter(|&(key, value)| then.get(key) != Some(value))
            .map(|(key, value)| format!("{key} was {}, is {value}", then.get(key).unwrap_or(&Value::Null)))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        Err(Error::Training(format!(
            "cannot resume from {}: the run was started with other settings ({})",
            folder.display(),
            changed.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;
    use serde_json::json;

    use super::*;

    fn state(step: u64) -> TrainingState {
        let tensors: Tensors = [("p".to_owned(), Array::from_slice(&[step as f32], &[1]))].into();
        let optimizer = OptimizerState { tensors: tensors.clone(), updates: step };
        let history = History { train_losses: vec![0.1 + 0.2; step as usize], ..History::default() };
        let best = Some(BestParameters { step: step / 2, loss: 0.1 + 0.2, parameters: tensors.clone() });
        let loss_scale = Some(LossScale { scale: 2.0, good_steps: 3 });
        TrainingState {
            step,
            parameters: tensors.clone(),
            optimizer,
            hooks: tensors,
            history,
            best,
            loss_scale,
        }
    }

    #[test]
    fn newest_comes_back_exactly_and_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointManager::new(folder.path().to_owned(), json!({"seed": 1}), 2)
            .with_shared_file("all.json", "1".to_owned());
        assert!(checkpoints.load_latest().unwrap().is_none());
        for step in [2, 4, 10] {
            checkpoints.save(&state(step)).unwrap();
        }
        let back = checkpoints.load_latest().unwrap().unwrap();
        assert_eq!((back.step, back.optimizer.updates), (10, 10));
        assert_eq!(back.history.train_losses, vec![0.1 + 0.2; 10]);
        assert_eq!(back.parameters["p"].as_slice::<f32>(), [10.0]);
        assert_eq!(back.hooks["p"].as_slice::<f32>(), [10.0]);
        assert_eq!(back.optimizer.tensors["p"].as_slice::<f32>(), [10.0]);
        assert_eq!(back.loss_scale, Some(LossScale { scale: 2.0, good_steps: 3 }));
        let best = back.best.unwrap();
        assert_eq!((best.step, best.loss), (5, 0.1 + 0.2));
        assert_eq!(best.parameters["p"].as_slice::<f32>(), [10.0]);
        assert_eq!(fs::read_to_string(folder.path().join("all.json")).unwrap(), "1");
        assert_eq!(checkpoints.stored().iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 10]);
    }

    #[test]
    fn another_run_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let run =
            |seed: u64| CheckpointManager::new(folder.path().to_owned(), json!({"seed": seed, "lr": 0.1}), 2);
        run(1).save(&state(1)).unwrap();
        let message = run(2).load_latest().unwrap_err().to_string();
        assert!(message.contains("seed was 1, is 2") && !message.contains("lr"), "{message}");
    }
}
