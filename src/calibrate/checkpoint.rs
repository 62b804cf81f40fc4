//! Checkpoints of work that goes block by block: the parameters of each finished block, and the sequences in front of
//! the next one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::BlockStream;
use crate::io::atomic::{self, NewFolder};
use crate::io::tensors;
use crate::models::Model;
use crate::params::Tensors;
use crate::{Error, Result, files};

const IDENTITY: &str = "identity.json";
const PARAMETERS: &str = "parameters.safetensors";
const STREAM: &str = "stream.safetensors";
const REPORT: &str = "report.json";

/// The checkpoints in one folder.
#[derive(Debug)]
pub struct BlockCheckpoints {
    folder: PathBuf,
}

/// A finished block.
#[derive(Debug)]
pub struct FinishedBlock {
    /// Its parameters, by name.
    pub parameters: Tensors,
    /// What [`BlockCheckpoints::save`] was told about it.
    pub report: Value,
}

impl BlockCheckpoints {
    /// Starts anew in `folder`; `identity` is what a resumed run must match.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn create(folder: PathBuf, identity: &Value) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io("remove", &folder))?;
        }
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        atomic::write_text(&folder.join(IDENTITY), &format!("{identity:#}\n"))?;
        Ok(Self { folder })
    }

    /// Opens the checkpoints in `folder`, and returns the finished blocks and the sequences in front of the next one;
    /// `None` if no block was finished.
    ///
    /// # Errors
    /// Another `identity`, by the first key that differs; files that are missing or damaged.
    pub fn resume(
        folder: PathBuf,
        identity: &Value,
    ) -> Result<Option<(Self, Vec<FinishedBlock>, BlockStream)>> {
        let this = Self { folder };
        if !this.block(0).exists() {
            return Ok(None);
        }
        let folder = &this.folder;
        let found = read_json(&folder.join(IDENTITY))?;
        let keys = identity.as_object().into_iter().flatten().map(|(key, _)| key);
        if let Some(key) = keys.into_iter().find(|key| found[*key] != identity[*key]) {
            return Err(Error::Config(format!(
                "{} was started with {key} {}, not {}: it cannot be resumed with another value",
                folder.display(),
                found[key],
                identity[key]
            )));
        }
        let mut blocks = Vec::new();
        while this.block(blocks.len()).exists() {
            let folder = this.block(blocks.len());
            let parameters = tensors::read(&folder.join(PARAMETERS))?;
            blocks.push(FinishedBlock { parameters, report: read_json(&folder.join(REPORT))? });
        }
        let stream = BlockStream::load(&this.block(blocks.len() - 1).join(STREAM), blocks.len())?;
        Ok(Some((this, blocks, stream)))
    }

    /// Saves the block of `model` that `stream` has just left.
    ///
    /// # Errors
    /// No space or no permission.
    pub fn save(&self, model: &Model, stream: &BlockStream, report: &Value) -> Result<()> {
        let index = stream.block() - 1;
        let prefix = model.block_path(index) + ".";
        let parameters: Tensors = model
            .parameters()
            .flatten()
            .into_iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, x)| (name.to_string(), x.clone()))
            .collect();
        let folder = NewFolder::begin(&self.block(index))?;
        tensors::write(&folder.path().join(PARAMETERS), &parameters, &[])?;
        stream.save(&folder.path().join(STREAM))?;
        atomic::write_text(&folder.path().join(REPORT), &report.to_string())?;
        folder.finish()?;
        // Only the newest is needed.
        if let Some(before) = index.checked_sub(1) {
            let path = self.block(before).join(STREAM);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    fn block(&self, index: usize) -> PathBuf {
        self.folder.join(format!("block-{index:04}"))
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let broken = |why: String| Error::Training(format!("{}: {why}", path.display()));
    let text = files::read_to_string(path, files::MAX_JSON).map_err(|error| broken(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| broken(format!("not valid JSON: {error}")))
}
