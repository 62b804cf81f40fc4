//! Output folders: one run at a time writes to a folder, and no finished result is overwritten by accident.

use std::fs;
use std::path::{Path, PathBuf};

use super::atomic;
use super::lock::{FolderLock, LOCK};
use crate::{Error, Result};

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

impl IfExists {
    /// What the settings `resume` and `overwrite` of a run ask for.
    #[must_use]
    pub fn from_settings(resume: bool, overwrite: bool) -> Self {
        if resume {
            Self::Resume
        } else if overwrite {
            Self::Overwrite
        } else {
            Self::Fail
        }
    }
}

/// Returns the setting `output` of a run.
///
/// # Errors
/// It is not set.
pub fn required(output: Option<&str>) -> Result<&Path> {
    output.map(Path::new).ok_or_else(|| Error::Config("output is not set".into()))
}

/// Checks that `output` is not the folder `source` of the model itself.
///
/// # Errors
/// It is.
pub fn refuse_source(source: &Path, output: &Path) -> Result<()> {
    let same = fs::canonicalize(output).is_ok_and(|to| fs::canonicalize(source).is_ok_and(|from| from == to));
    if same {
        return Err(Error::Config(format!("output is the model's own folder, {}", output.display())));
    }
    Ok(())
}

/// An output folder locked by this process. When the value is dropped, a folder in which nothing was written is
/// removed again, if it was created for the run.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    checkpoints: PathBuf,
    lock: FolderLock,
}

impl OutputFolder {
    /// Creates `folder` if necessary and locks it, and removes unfinished files of a run that was killed.
    ///
    /// `results` are the files of a finished run, `checkpoints` is the subfolder of an unfinished one.
    ///
    /// # Errors
    /// A folder that cannot be written or is in use by another run; with [`IfExists::Fail`], one that already
    /// holds a run; with [`IfExists::Resume`], one in which no run was begun.
    pub fn open(folder: &Path, results: &[&str], checkpoints: &str, existing: IfExists) -> Result<Self> {
        if !folder.join(LOCK).exists() {
            // Before anything is written into a folder of others.
            Self::check(folder, results, checkpoints, existing)?;
        }
        if folder.is_file() {
            return Err(Error::Training(format!("output {} is a file, expected a folder", folder.display())));
        }
        // From here on, leaving early gives the lock back.
        let output = Self {
            folder: folder.to_owned(),
            checkpoints: folder.join(checkpoints),
            lock: FolderLock::acquire(folder)?,
        };
        atomic::remove_leftovers(&output.folder);
        atomic::remove_leftovers(&output.checkpoints);
        Self::check(folder, results, checkpoints, existing)?;
        if existing == IfExists::Overwrite {
            clear(folder, results, &output.checkpoints)?;
        }
        Ok(output)
    }

    /// Reports a conflict with the run that `folder` holds before any work is done; creates nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what the folder holds.
    pub fn check(folder: &Path, results: &[&str], checkpoints: &str, existing: IfExists) -> Result<()> {
        let checkpoints = folder.join(checkpoints);
        atomic::refuse_link(&checkpoints)?;
        atomic::refuse_link(&folder.join(LOCK))?;
        match existing {
            IfExists::Fail => refuse(folder, results, &checkpoints),
            IfExists::Overwrite => Ok(()),
            IfExists::Resume => require_run(folder, results, &checkpoints),
        }
    }

    /// Path of the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        // Only an empty one can be removed.
        let _ = fs::remove_dir(&self.checkpoints);
        self.lock.remove_if_unused();
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

/// Requires a run that could go on, or one that was killed before its first checkpoint: that one begins anew.
fn require_run(folder: &Path, results: &[&str], checkpoints: &Path) -> Result<()> {
    let is_finished = results.iter().any(|name| folder.join(name).exists());
    if holds_checkpoint(checkpoints) || (!is_finished && folder.join(LOCK).exists()) {
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
        let message = open(folder.path(), IfExists::Resume).unwrap_err().to_string();
        assert!(message.contains("no run to resume") && message.contains("without --resume"), "{message}");
        fs::create_dir_all(folder.path().join("checkpoints/.step-0000002.efficientai-tmp")).unwrap();
        fs::write(folder.path().join("checkpoints/reference.json"), "{}").unwrap();
        fs::write(folder.path().join(".adapters.safetensors.efficientai-tmp"), "half").unwrap();
        fs::write(folder.path().join(LOCK), "").unwrap();
        for existing in [IfExists::Resume, IfExists::Fail] {
            drop(open(folder.path(), existing).unwrap());
        }
        let left = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!((left(folder.path()), left(&folder.path().join("checkpoints"))), (2, 1));
        fs::write(folder.path().join("result.json"), "").unwrap();
        open(folder.path(), IfExists::Resume).unwrap_err();
    }

    #[test]
    fn nothing_is_left_of_a_run_that_wrote_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        let held = open(&folder, IfExists::Fail).unwrap();
        fs::create_dir(folder.join("checkpoints")).unwrap();
        drop(held);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_may_be_a_link_but_not_its_checkpoints() {
        use std::os::unix::fs::symlink;

        let parent = tempfile::tempdir().unwrap();
        let [precious, link] = ["precious", "link"].map(|name| parent.path().join(name));
        fs::create_dir_all(precious.join("step-0000001")).unwrap();
        symlink("precious", &link).unwrap();
        drop(open(&link, IfExists::Fail).unwrap());
        fs::create_dir(parent.path().join("output")).unwrap();
        symlink("../precious", parent.path().join("output/checkpoints")).unwrap();
        for existing in [IfExists::Fail, IfExists::Resume, IfExists::Overwrite] {
            let error = open(&parent.path().join("output"), existing).unwrap_err().to_string();
            assert!(error.contains("checkpoints: it is a symbolic link"), "{error}");
        }
        assert!(precious.join("step-0000001").is_dir());
    }
}
