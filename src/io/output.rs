//! The folder a run writes to: one run at a time, and no finished result overwritten by accident.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const LOCK: &str = ".lock";

/// What to do with a folder that already holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Keep,
    /// Start afresh in it.
    Overwrite,
    /// Go on with it.
    Resume,
}

/// An output folder held by this run; the lock goes with the value, or with the process.
#[derive(Debug)]
pub struct Output {
    folder: PathBuf,
    _lock: File,
}

impl Output {
    /// Creates `folder` if need be and locks it. `result` is the file a finished run leaves,
    /// `checkpoints` the subfolder of an unfinished one.
    ///
    /// # Errors
    /// A folder that cannot be written, is in use by another run, or holds a run that `existing`
    /// says to keep.
    pub fn open(folder: &Path, result: &str, checkpoints: &str, existing: Existing) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(Error::io("write", &path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Training(format!(
                "output folder {} is in use by another run; choose another one or wait",
                folder.display()
            )),
            TryLockError::Error(source) => Error::io("lock", &path)(source),
        })?;
        // From here on, leaving early gives the lock back.
        let output = Self { folder: folder.to_owned(), _lock: lock };
        let checkpoints = folder.join(checkpoints);
        match existing {
            Existing::Keep => refuse(folder, result, &checkpoints)?,
            Existing::Overwrite if checkpoints.exists() => {
                fs::remove_dir_all(&checkpoints).map_err(Error::io("remove", &checkpoints))?;
            }
            Existing::Overwrite | Existing::Resume => {}
        }
        Ok(output)
    }

    /// Where the result goes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // The lock itself is released when the file closes; this only tidies up.
        let _ = fs::remove_file(self.folder.join(LOCK));
    }
}

fn refuse(folder: &Path, result: &str, checkpoints: &Path) -> Result<()> {
    let found = if folder.join(result).exists() {
        "a finished run; choose another output, or set overwrite to replace it"
    } else if checkpoints.exists() {
        "an unfinished run; set resume to go on with it, or overwrite to start afresh"
    } else {
        return Ok(());
    };
    Err(Error::Training(format!("output folder {} holds {found}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, existing: Existing) -> Result<Output> {
        Output::open(folder, "result.json", "checkpoints", existing)
    }

    #[test]
    fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = open(folder.path(), Existing::Keep).unwrap();
        let message = open(folder.path(), Existing::Keep).unwrap_err().to_string();
        assert!(message.contains("in use"), "{message}");
        drop(held);
        open(folder.path(), Existing::Keep).unwrap();
    }

    #[test]
    fn keeps_what_is_there_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("checkpoints")).unwrap();
        let message = open(folder.path(), Existing::Keep).unwrap_err().to_string();
        assert!(message.contains("unfinished run"), "{message}");
        drop(open(folder.path(), Existing::Resume).unwrap());
        assert!(folder.path().join("checkpoints").exists());
        drop(open(folder.path(), Existing::Overwrite).unwrap());
        assert!(!folder.path().join("checkpoints").exists());
        fs::write(folder.path().join("result.json"), "").unwrap();
        let message = open(folder.path(), Existing::Keep).unwrap_err().to_string();
        assert!(message.contains("a finished run"), "{message}");
    }
}
