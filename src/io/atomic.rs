//! Atomic writes: a file or folder is written under a temporary name and then renamed, so that readers see
//! either the old or the new version. Symbolic links are replaced and never followed: what they point to is not ours.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Ending of the names of unfinished files and folders; nobody else's files have it.
const UNFINISHED: &str = ".efficientai-tmp";
/// Ending of the names of folders that are being replaced.
const REPLACED: &str = ".efficientai-old";

/// Atomically replaces the file `path` by what `write` puts into the file it is given. On any error the old file is
/// left unchanged.
///
/// # Errors
/// No space, no permission, or an error of `write`.
pub fn write(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let temporary = hidden(path, UNFINISHED);
    // Left over from a run that was killed, or a link that must not be followed.
    let _ = fs::remove_file(&temporary);
    let outcome = File::create_new(&temporary)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
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
    write(path, |file| io::Write::write_all(file, text.as_bytes()))
}

/// Creates the folder `path`, and its parents, if it is missing.
///
/// # Errors
/// A symbolic link in its place; no permission.
pub fn create_folder(path: &Path) -> Result<()> {
    refuse_link(path)?;
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Refuses a symbolic link where a file or folder of ours belongs.
///
/// # Errors
/// A symbolic link, named.
pub fn refuse_link(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let reason = "it is a symbolic link, which is not followed; remove it or choose another output";
        return Err(Error::io("write to", path)(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    Ok(())
}

/// Removes from `folder` what runs left there that were killed while they wrote. A folder that was about to be
/// replaced gets its name back.
pub fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        if let Some(name) = name.strip_suffix(REPLACED) {
            let target = path.with_file_name(name);
            if fs::symlink_metadata(&target).is_ok() || fs::rename(&path, target).is_err() {
                let _ = fs::remove_dir_all(&path);
            }
        } else if name.ends_with(UNFINISHED) {
            // Neither follows a link.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
}

/// The name that a file or folder gets once it is finished; `name` itself if it is.
#[must_use]
pub fn finished_name(name: &str) -> &str {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED)).unwrap_or(name)
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
        let temporary = hidden(target, UNFINISHED);
        // Left over from a run that was killed.
        let _ = fs::remove_dir_all(&temporary);
        if let Some(parent) = target.parent() {
            create_folder(parent)?;
        }
        fs::create_dir(&temporary).map_err(Error::io("create", target))?;
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
        let old = hidden(&self.target, REPLACED);
        let _ = fs::remove_dir_all(&old);
        if fs::symlink_metadata(&self.target).is_ok() {
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

/// `.{name}{ending}` beside `path`. The name is the same in every process, so that the leftovers of a killed
/// process are found; the lock of the output folder keeps two processes from writing at once.
fn hidden(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{ending}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_text(&path, "old").unwrap();
        let error = write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().contains("x.json: disk full"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["x.json"]);
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

    #[cfg(unix)]
    #[test]
    fn links_are_replaced_and_never_followed() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let [precious, output] = ["precious", "output"].map(|name| folder.path().join(name));
        fs::create_dir(&output).unwrap();
        fs::write(&precious, "kept").unwrap();
        let path = output.join("x.json");
        for link in [path.clone(), hidden(&path, UNFINISHED)] {
            symlink("../precious", &link).unwrap();
            write_text(&path, "new").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
            assert_eq!(names(&output), ["x.json"]);
        }
        // A folder, through a dangling link and one to a folder.
        for to in ["nowhere", "../output"] {
            let target = output.join("step");
            symlink(to, hidden(&target, UNFINISHED)).unwrap();
            let _ = fs::remove_dir_all(&target);
            symlink(to, &target).unwrap();
            NewFolder::begin(&target).unwrap().finish().unwrap();
            assert!(fs::symlink_metadata(&target).unwrap().is_dir());
            assert_eq!(names(&output), ["step", "x.json"]);
        }
        symlink("../output", folder.path().join("checkpoints")).unwrap();
        let error = NewFolder::begin(&folder.path().join("checkpoints/step")).unwrap_err().to_string();
        assert!(error.contains("checkpoints: it is a symbolic link, which is not followed"), "{error}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }

    #[cfg(unix)]
    #[test]
    fn files_have_the_permissions_of_new_files() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        fs::write(&plain, "").unwrap();
        write_text(&ours, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_and_no_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [".notes.tmp", "x.efficientai-tmp", ".x.json.efficientai-tmp"] {
            fs::write(at(name), "").unwrap();
        }
        for name in
            [".step-1.efficientai-tmp", "step-2", ".step-2.efficientai-old", ".step-3.efficientai-old"]
        {
            fs::create_dir_all(at(name).join("inside")).unwrap();
        }
        remove_leftovers(folder.path());
        assert_eq!(names(folder.path()), [".notes.tmp", "step-2", "step-3", "x.efficientai-tmp"]);
        assert!(at("step-3/inside").is_dir());
    }
}
