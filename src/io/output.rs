//! The folder a run writes to: one run at a time, and no finished result overwritten by accident.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const LOCK: &str = ".lock";

/// Subfolder of an output folder that holds the checkpoints of an unfinished run.
pub const CHECKPOINTS: &str = "checkpoints";

/// What to do with a folder that already holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Refuse.
    Fail,
    /// Start afresh in it.
    Overwrite,
    /// Go on with it.
    Resume,
}

/// An output folder held by this run; the lock goes with the value, or with the process. The
/// lock's file stays: removing it would let two runs lock two files of one name.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    _lock: File,
}

impl OutputFolder {
    /// Creates `folder` if need be and locks it. `results` are the files a finished run leaves,
    /// `checkpoints` is the subfolder of an unfinished one.
    ///
    /// # Errors
    /// A folder that cannot be written, is in use by another run, or holds a run that `existing`
    /// says to keep.
    pub fn open(folder: &Path, results: &[&str], checkpoints: &str, existing: IfExists) -> Result<Self> {
        if existing == IfExists::Resume && !folder.join(checkpoints).is_dir() {
            return Err(Error::Training(format!(
                "there is no run to resume: {} holds no checkpoint",
                folder.display()
            )));
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
        let checkpoints = folder.join(checkpoints);
        match existing {
            IfExists::Fail => refuse(folder, results, &checkpoints)?,
            IfExists::Overwrite => clear(folder, results, &checkpoints)?,
            IfExists::Resume => {}
        }
        Ok(output)
    }

    /// Whether `folder` could be opened to keep what it holds, before any work is done for it.
    ///
    /// # Errors
    /// A folder that holds a run.
    pub fn check(folder: &Path, results: &[&str], checkpoints: &str) -> Result<()> {
        refuse(folder, results, &folder.join(checkpoints))
    }

    /// Where the result goes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Removes an earlier run, and nothing else that lies in `folder`.
fn clear(folder: &Path, results: &[&str], checkpoints: &Path) -> Result<()> {
    if checkpoints.exists() {
        fs::remove_dir_all(checkpoints).map_err(Error::io("remove", checkpoints))?;
    }
    for path in results.iter().map(|name| folder.join(name)).filter(|path| path.exists()) {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

fn refuse(folder: &Path, results: &[&str], checkpoints: &Path) -> Result<()> {
    let found = if results.iter().any(|name| folder.join(name).exists()) {
        "a finished run or a model; choose another output, or set overwrite to replace it"
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
        fs::create_dir(folder.path().join("checkpoints")).unwrap();
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
}
