//! The thread that writes states to files, while others compute.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use super::entry::{NewEntry, kind_of};
use crate::io::atomic::finished_name;
use crate::{Error, Result};

/// Bytes of the states that wait; further ones are not written.
const MAX_WAITING: usize = 256 << 20;
/// Number of files, all of which are looked through for every text.
const MAX_FILES: usize = 4096;

/// A state that was written, or why not, and the files that it stands for.
pub(super) struct Written {
    pub path: PathBuf,
    pub replaced: Vec<PathBuf>,
    pub outcome: Result<()>,
}

/// Writes states in the order in which they come.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<(NewEntry, Vec<PathBuf>)>>,
    written: Receiver<Written>,
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread; the files in `folder` take at most `max_bytes` bytes.
    ///
    /// # Errors
    /// No more threads.
    pub(super) fn start(folder: PathBuf, max_bytes: u64) -> Result<Self> {
        let (jobs, received) = channel::<(NewEntry, Vec<PathBuf>)>();
        let (report, written) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let name = folder.clone();
        let work = move || {
            for (entry, replaced) in received {
                let outcome = entry.write();
                if outcome.is_ok() {
                    for path in &replaced {
                        // Another process may have removed it.
                        let _ = fs::remove_file(path);
                    }
                    trim(&folder, max_bytes);
                }
                left.fetch_sub(entry.bytes(), Ordering::Relaxed);
                // Nobody listens any longer after the last one.
                let _ = report.send(Written { path: entry.entry.path, replaced, outcome });
            }
        };
        let thread = thread::Builder::new().name("prompt-cache".into()).spawn(work);
        let thread = thread.map_err(Error::io("start the thread that writes to", &name))?;
        Ok(Self { jobs: Some(jobs), written, waiting, thread: Some(thread) })
    }

    /// Takes a state to write in place of the files `replaced`; false if too many wait.
    pub(super) fn submit(&self, entry: NewEntry, replaced: Vec<PathBuf>) -> bool {
        let (bytes, waiting) = (entry.bytes(), self.waiting.load(Ordering::Relaxed));
        if waiting > 0 && waiting + bytes > MAX_WAITING {
            return false;
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.jobs.as_ref().is_some_and(|jobs| jobs.send((entry, replaced)).is_ok())
    }

    /// What was written since the last call.
    pub(super) fn written(&self) -> impl Iterator<Item = Written> {
        self.written.try_iter()
    }

    /// Writes what waits, and ends the thread.
    pub(super) fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// Removes the files of prompt caches in `folder` that were used longest ago, leftovers of a killed process included,
/// until the others take at most `max_bytes` bytes.
pub(super) fn trim(folder: &Path, max_bytes: u64) {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = file.file_name().to_str().is_some_and(|name| kind_of(finished_name(name)).is_some());
        // That of a link is its own.
        if let (true, Ok(metadata)) = (is_ours, file.metadata()) {
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((used, metadata.len(), file.path()));
        }
    }
    found.sort();
    let (mut total, mut count) = (found.iter().map(|file| file.1).sum::<u64>(), found.len());
    for (_, bytes, path) in found {
        if total <= max_bytes && count <= MAX_FILES {
            break;
        }
        if fs::remove_file(path).is_ok() {
            (total, count) = (total - bytes, count - 1);
        }
    }
}

/// Notes that the file was used now.
pub(super) fn touch(path: &Path) {
    // Best effort: it is removed a little earlier otherwise.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}
