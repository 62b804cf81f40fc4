//! Reading files that nobody vouches for: only regular ones, of bounded size, and named where a library panics.

use std::fs::{self, File, FileType};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Error, Result};

/// Largest JSON file or chat template beside a model, in bytes; real ones have a few million.
pub const MAX_JSON: u64 = 64 << 20;

/// Opens the regular file `path`, also through a link.
///
/// # Errors
/// A folder, a device, a pipe or a socket: reading one may wait or go on for ever. Errors of the system.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: that of a pipe waits for a writer.
    let kind = fs::metadata(path)?.file_type();
    if kind.is_file() {
        return File::open(path);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("it is {}, not a regular file; put a copy of the file itself there", describe(kind)),
    ))
}

/// Reads the regular file `path` of at most `max` bytes.
///
/// # Errors
/// Those of [`open`]; a larger file.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    // Some files of the system have no size, and others grow.
    let size = file.metadata()?.len().min(max.saturating_add(1));
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size as usize)?;
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let reason = format!("it is larger than {max} bytes, which no such file needs");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// As [`read`], for text.
///
/// # Errors
/// Those of [`read`]; text that is not UTF-8.
pub fn read_to_string(path: &Path, max: u64) -> io::Result<String> {
    String::from_utf8(read(path, max)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 at byte {at}"))
    })
}

/// Calls `work`, which reads `path`; a panic, such as one inside a library, becomes an error that names the file.
/// `class` is the class of the error.
///
/// # Errors
/// Those of `work`; a panic.
pub fn guard<T>(path: &Path, class: fn(String) -> Error, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic_message(&*panic);
        Err(class(format!("{}: cannot be read, it may be damaged ({reason})", path.display())))
    })
}

/// The message of a panic.
#[must_use]
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(unix)]
fn describe(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        kind if kind.is_socket() => "a socket",
        _ => "something else",
    }
}

#[cfg(not(unix))]
fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "something else" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        read(path, 10).unwrap_err().to_string()
    }

    #[test]
    fn regular_files_are_read_up_to_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_to_string(&path, 10).unwrap(), "0123456789");
        fs::write(&path, "0123456789a").unwrap();
        assert_eq!(refused(&path), "it is larger than 10 bytes, which no such file needs");
        fs::write(&path, b"abc\xff").unwrap();
        assert_eq!(read_to_string(&path, 10).unwrap_err().to_string(), "not UTF-8 at byte 3");
        assert_eq!(refused(&folder.path().join("none")), "No such file or directory (os error 2)");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_devices_and_folders_are_refused_before_they_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("config.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let zero = folder.path().join("tokenizer.json");
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        let end = "not a regular file; put a copy of the file itself there";
        assert_eq!(refused(&pipe), format!("it is a named pipe, {end}"));
        assert_eq!(refused(&zero), format!("it is a device, {end}"));
        assert_eq!(refused(folder.path()), format!("it is a folder, {end}"));
        // A file of the system without a size.
        assert!(refused(Path::new("/proc/meminfo")).contains("larger than 10 bytes"));
    }

    #[test]
    fn a_panic_names_the_file() {
        let outcome =
            guard(Path::new("d/a.bin"), Error::ModelLoading, || -> Result<()> { panic!("index 7") });
        let message = outcome.unwrap_err().to_string();
        assert_eq!(message, "d/a.bin: cannot be read, it may be damaged (index 7)");
    }
}
