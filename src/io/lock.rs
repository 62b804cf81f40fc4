//! The lock file of an output folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Name of the lock file. It is empty: only the lock on it counts.
pub(super) const LOCK: &str = ".lock";

/// How often a lock file that another run has just removed is made again.
const ATTEMPTS: usize = 100;

/// A locked folder. The lock is released when the value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    path: PathBuf,
    file: File,
    /// Folders that were created for it, the innermost first.
    created: Vec<PathBuf>,
}

impl FolderLock {
    /// Creates `folder` if necessary and locks it. What the lock file contains is left alone.
    ///
    /// # Errors
    /// A folder that cannot be written or is in use by another run; something else under the name of the lock file.
    pub(super) fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let mut created = Vec::new();
        for _ in 0..ATTEMPTS {
            let missing = folder.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned);
            created.extend(missing.collect::<Vec<_>>());
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            let file = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(Error::io("write", &path))?,
            };
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => Error::Training(format!(
                    "output folder {} is in use by another run; choose another one or wait",
                    folder.display()
                )),
                TryLockError::Error(source) => Error::io("lock", &path)(source),
            })?;
            // A run that ended without a result has removed its lock file, perhaps after this one opened it.
            if is_at(&file, &path) {
                return Ok(Self { path, file, created });
            }
        }
        Err(Error::Training(format!("{} is removed again and again by others", path.display())))
    }

    /// Removes the lock file, and the folders that were created for it, if there is nothing else in the folder.
    pub(super) fn remove_if_unused(&self) {
        let Some(folder) = self.path.parent() else { return };
        let is_unused = fs::read_dir(folder)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == LOCK)));
        // One that is not empty is somebody else's.
        if is_unused
            && is_at(&self.file, &self.path)
            && self.file.metadata().is_ok_and(|file| file.len() == 0)
        {
            let _ = fs::remove_file(&self.path);
            // Only empty ones can be removed.
            let _ = self.created.iter().try_for_each(fs::remove_dir);
        }
    }
}

/// Opens the lock file, or creates it.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Never through a link, and never waiting for the other end of a pipe.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a link or a folder, not the lock file of a run; remove it or choose another output",
        )),
        _ => options.open(path),
    }
}

/// Whether `file` is the file that `path` names.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(named)) => (file.dev(), file.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Whether `file` is the file that `path` names. An open file cannot be removed here.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_folder_that_was_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("runs/lora-0001");
        FolderLock::acquire(&folder).unwrap().remove_if_unused();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        // A folder that was there stays, and so does one with a result.
        fs::create_dir_all(&folder).unwrap();
        FolderLock::acquire(&folder).unwrap().remove_if_unused();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        let lock = FolderLock::acquire(&folder).unwrap();
        fs::write(folder.join("result"), "").unwrap();
        lock.remove_if_unused();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn a_lock_file_that_was_removed_locks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).unwrap();
        assert!(is_at(&first.file, &first.path));
        first.remove_if_unused();
        let second = FolderLock::acquire(folder.path()).unwrap();
        assert!(!is_at(&first.file, &first.path) && is_at(&second.file, &second.path));
    }

    #[cfg(unix)]
    #[test]
    fn what_lies_under_its_name_is_neither_emptied_nor_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [precious, output] = ["precious", "output"].map(|name| folder.path().join(name));
        fs::create_dir(&output).unwrap();
        fs::write(&precious, "kept").unwrap();
        for target in ["../precious", "../nowhere", "/dev/null"] {
            std::os::unix::fs::symlink(target, output.join(LOCK)).unwrap();
            let error = FolderLock::acquire(&output).unwrap_err().to_string();
            assert!(error.contains(".lock: it is a link or a folder, not the lock file"), "{error}");
            fs::remove_file(output.join(LOCK)).unwrap();
        }
        fs::hard_link(&precious, output.join(LOCK)).unwrap();
        FolderLock::acquire(&output).unwrap().remove_if_unused();
        assert_eq!(fs::read_to_string(output.join(LOCK)).unwrap(), "kept");
        assert!(!folder.path().join("nowhere").exists());
    }
}
