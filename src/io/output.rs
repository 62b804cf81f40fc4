//! Output folders: one run at a time writes to a folder, and no finished result is overwritten by accident.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const LOCK: &str = ".lock";

/// Subfolder of an output folder with the checkpoints of an unfinished run.
pub const CHECKPOINTS: &str = "checkpoints";

/// What to do with an output folder that already holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Raise an error.
    Fail,
    /// Delete the earlier run and start a new one.
    Overwrite,
    /// Continue the earlier run.
    Resume,
}

/// An output folder locked by this process. The lock is released when the value is dropped or the process
/// ends; the lock file is kept, since removing it would allow two processes to lock two files of the same
/// name.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    _lock: File,
}

impl OutputFolder {
    /// Creates `folder` if necessary and locks it.
    ///
    /// `results` are the files of a finished run, `checkpoints` is the subfolder of an unfinished one.
    ///
    /// # Errors
    /// A folder that cannot be written or is in use by another run; with [`IfExists::Fail`], one that already
    /// holds a run; with [`IfExists::Resume`], one without checkpoints.
    pub fn open(folder: &Path, results: &[&str], checkpoints: &str, existing: IfExists) -> Result<Self> {
        let checkpoints = folder.join(checkpoints);
        if existing == IfExists::Resume {
            require_checkpoint(folder, &checkpoints)?;
        }
        if folder.is_file() {
            return Err(Error::Training(format!("output {} is a file, expected a folder", folder.display())));
        }
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
        match existing {
            IfExists::Fail => refuse(folder, results, &checkpoints)?,
            IfExists::Overwrite => clear(folder, results, &checkpoints)?,
            IfExists::Resume => {}
        }
        Ok(output)
    }

    /// Reports a conflict with the run that `folder` holds before any work is done; creates nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what the folder holds.
    pub fn check(folder: &Path, results: &[&str], checkpoints: &str, existing: IfExists) -> Result<()> {
        let checkpoints = folder.join(checkpoints);
        match existing {
            IfExists::Fail => refuse(folder, results, &checkpoints),
            IfExists::Overwrite => Ok(()),
            IfExists::Resume => require_checkpoint(folder, &checkpoints),
        }
    }

    /// Path of the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Deletes the files of an earlier run, and nothing else in `folder`.
fn clear(folder: &Path, results: &[&str], checkpoints: &Path) -> Result<()> {
    if checkpoints.exists() {
        fs::remove_dir_all(checkpoints).map_err(Error::io("remove", checkpoints))?;
    }
    for path in results.iter().map(|name| folder.join(name)).filter(|path| path.exists()) {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Whether a run could go on from this folder. One that ended before its first checkpoint left at most files that
/// start with a dot, or are shared by the checkpoints to come.
fn holds_checkpoint(checkpoints: &Path) -> bool {
    fs::read_dir(checkpoints)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.path().is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b"."))
}

fn require_checkpoint(folder: &Path, checkpoints: &Path) -> Result<()> {
    if holds_checkpoint(checkpoints) {
        return Ok(());
    }
    Err(Error::Training(format!(
        "there is no run to resume: {} holds no checkpoint; start it without --resume (resume=False in Python)",
        folder.display()
    )))
}

fn refuse(folder: &Path, results: &[&str], checkpoints: &Path) -> Result<()> {
    let found = if results.iter().any(|name| folder.join(name).exists()) {
        "a finished run or a model; choose another output, or replace it with --overwrite (overwrite=True in Python)"
    } else if holds_checkpoint(checkpoints) {
        "an unfinished run; continue it with --resume (resume=True in Python), or replace it with --overwrite"
    } else {
        return Ok(());
    };
    Err(Error::Training(format!("output folder {} holds {found}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, existing: IfExists) -> Result<OutputFolder> {
        OutputFolder::open(folder, &["result.json"], "checkpoints", existing)
    }

    #[test]
    fn one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = open(folder.path(), IfExists::Fail).unwrap();
        let message = open(folder.path(), IfExists::Fail).unwrap_err().to_string();
        assert!(message.contains("in use"), "{message}");
        drop(held);
        open(folder.path(), IfExists::Fail).unwrap();
    }

    #[test]
    fn keeps_what_is_there_unless_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("checkpoints/step-0000002")).unwrap();
        let message = open(folder.path(), IfExists::Fail).unwrap_err().to_string();
        assert!(message.contains("unfinished run"), "{message}");
        drop(open(folder.path(), IfExists::Resume).unwrap());
        assert!(folder.path().join("checkpoints").exists());
        drop(open(folder.path(), IfExists::Overwrite).unwrap());
        assert!(!folder.path().join("checkpoints").exists());
        fs::write(folder.path().join("result.json"), "").unwrap();
        let message = open(folder.path(), IfExists::Fail).unwrap_err().to_string();
        assert!(message.contains("a finished run"), "{message}");
    }

    #[test]
    fn a_run_killed_before_its_first_checkpoint_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("checkpoints/.step-0000002.tmp")).unwrap();
        fs::write(folder.path().join("checkpoints/reference.json"), "{}").unwrap();
        let message = open(folder.path(), IfExists::Resume).unwrap_err().to_string();
        assert!(message.contains("no run to resume") && message.contains("without --resume"), "{message}");
        open(folder.path(), IfExists::Fail).unwrap();
    }
}
