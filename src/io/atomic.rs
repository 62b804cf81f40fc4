//! Atomic writes: a file or folder is written under a temporary name and then renamed, so that readers see
//! either the old or the new version.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Atomically replaces the file `path` by the one that `write` creates at the path it is given. On any error
/// the old file is left unchanged.
///
/// # Errors
/// No space, no permission, or an error of `write`.
pub fn write(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let temporary = hidden(path, "tmp");
    let outcome = write(&temporary)
        .and_then(|()| File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if outcome.is_err() {
        // Best effort: the error to report is the first one.
        let _ = fs::remove_file(&temporary);
    }
    outcome.map_err(Error::io("write", path))
}

/// Atomically replaces the file `path` by `text`.
///
/// # Errors
/// No space or no permission.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write(path, |temporary| fs::write(temporary, text))
}

/// A folder under construction, which gets its name only once it is complete. Dropped unfinished, it is
/// removed.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    temporary: PathBuf,
}

impl NewFolder {
    /// Creates an empty temporary folder that will replace `target`.
    ///
    /// # Errors
    /// No permission, or a parent that is not a folder.
    pub fn begin(target: &Path) -> Result<Self> {
        let temporary = hidden(target, "tmp");
        // Left over from a run that was killed.
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir_all(&temporary).map_err(Error::io("create", target))?;
        Ok(Self { target: target.to_owned(), temporary })
    }

    /// The temporary folder to write files to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Renames the folder to its target, replacing a folder of that name.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn finish(self) -> Result<()> {
        let old = hidden(&self.target, "old");
        let _ = fs::remove_dir_all(&old);
        if self.target.exists() {
            fs::rename(&self.target, &old).map_err(Error::io("replace", &self.target))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(Error::io("write", &self.target))?;
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // After `finish` there is nothing left under this name.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// `.{name}.{ending}` beside `path`. The name is the same in every process, so that the leftovers of a killed
/// process are found; the lock of the output folder keeps two processes from writing at once.
fn hidden(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_text(&path, "old").unwrap();
        let error = write(&path, |temporary| {
            fs::write(temporary, "half")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().contains("x.json: disk full"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_folder_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("checkpoint");
        drop(NewFolder::begin(&target).unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        let folder = NewFolder::begin(&target).unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        assert!(!target.exists());
        folder.finish().unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
    }
}
