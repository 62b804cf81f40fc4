//! Thread pool shared by all kernels.
//!
//! The calling thread takes part in the work, so MLX's stream thread and the workers together match the number of
//! cores. Jobs are partitioned by shape alone and tasks write to disjoint memory, so results do not depend on the
//! number of threads or on scheduling.

use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};

use super::environment::requested;
use crate::error::Result;

/// Iterations a worker spins for the next job before it sleeps: kernels follow each other within microseconds.
const SPINS: u32 = 20_000;

/// Environment variable that sets the number of threads.
const VARIABLE: &str = "EAT_NUM_THREADS";

/// Used without [`VARIABLE`]; its values belong to OpenMP, which knows more of them than a number.
const FALLBACK_VARIABLE: &str = "OMP_NUM_THREADS";

const MAX_THREADS: usize = 1024;

/// Number of threads used by kernels, including the calling thread.
///
/// Set by `EAT_NUM_THREADS` or `OMP_NUM_THREADS`; by default the available parallelism.
#[must_use]
pub fn threads() -> usize {
    pool().workers.len() + 1
}

/// Number of threads named by `EAT_NUM_THREADS`.
///
/// # Errors
/// A value that is no number in range.
pub(crate) fn requested_threads() -> Result<Option<usize>> {
    requested(VARIABLE, parse_threads)
}

fn parse_threads(value: &str) -> Result<usize, String> {
    let count = value.parse().ok().filter(|count| (1..=MAX_THREADS).contains(count));
    count.ok_or_else(|| format!("a number from 1 to {MAX_THREADS}"))
}

/// Calls `task(0)` … `task(count - 1)` in parallel, in unspecified order, and returns when all have finished.
///
/// # Panics
/// Resumes the first panic of a task after the remaining tasks have finished.
pub(crate) fn parallel_for(count: usize, task: impl Fn(usize) + Sync) {
    let pool = pool();
    // Within a task, or while another thread has the workers, the caller goes alone.
    let owner = match pool.owner.try_lock() {
        Ok(owner) => Some(owner),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    if owner.is_some() && count > 1 && !pool.workers.is_empty() {
        pool.run(count, &task);
    } else {
        drop(owner);
        (0..count).for_each(task);
    }
}

/// Calls `task` in parallel with contiguous ranges that partition `0..len`, each of at least `grain` items except the
/// last. The partition depends on `len` and `grain` alone.
pub(crate) fn parallel_ranges(len: usize, grain: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
    /// More than any machine needs to keep its threads busy with tasks of unequal length.
    const MAX: usize = 256;
    let step = grain.max(len.div_ceil(MAX)).max(1);
    parallel_for(len.div_ceil(step), |i| task(i * step..((i + 1) * step).min(len)));
}

/// A parallel loop in progress. Lives on the caller's stack.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.task)(index))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
        }
    }
}

struct Pool {
    owner: Mutex<()>,
    /// The open job; null when there is none.
    job: AtomicPtr<Job<'static>>,
    /// Workers that may hold a reference to the open job.
    inside: AtomicUsize,
    /// Counts jobs, so that a worker takes each one once.
    epoch: AtomicUsize,
    workers: Vec<Worker>,
}

struct Worker {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<&'static Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let fallback = || std::env::var(FALLBACK_VARIABLE).ok()?.parse().ok().filter(|&count| count > 0);
        let available = || thread::available_parallelism().map_or(1, usize::from);
        let wanted = requested_threads().ok().flatten().or_else(fallback);
        let count = wanted.unwrap_or_else(available).min(MAX_THREADS) - 1;
        let worker = || Worker { thread: OnceLock::new(), asleep: AtomicBool::new(false) };
        let pool: &'static Pool = Box::leak(Box::new(Pool {
            owner: Mutex::new(()),
            job: AtomicPtr::new(std::ptr::null_mut()),
            inside: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            workers: (0..count).map(|_| worker()).collect(),
        }));
        for (index, worker) in pool.workers.iter().enumerate() {
            let spawned = thread::Builder::new()
                .name(format!("eat-kernel-{}", index + 1))
                .spawn(move || pool.serve(worker));
            match spawned {
                Ok(handle) => worker.thread.get_or_init(|| handle.thread().clone()),
                // The caller does all work that no worker takes.
                Err(_) => break,
            };
        }
        pool
    })
}

impl Pool {
    fn run(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job { task, count, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        let pointer = (&raw const job).cast_mut().cast::<Job<'static>>();
        self.job.store(pointer, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.iter().take(count - 1) {
            if worker.asleep.swap(false, Ordering::SeqCst)
                && let Some(thread) = worker.thread.get()
            {
                thread.unpark();
            }
        }
        job.work();
        // No worker can enter from here on, and none may be inside when `job` goes away.
        self.job.store(std::ptr::null_mut(), Ordering::SeqCst);
        let mut spins = 0_u32;
        while self.inside.load(Ordering::SeqCst) != 0 {
            spins += 1;
            if spins.is_multiple_of(SPINS) { thread::yield_now() } else { spin_loop() }
        }
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }

    /// Main loop of a worker.
    fn serve(&self, worker: &Worker) -> ! {
        let mut seen = 0;
        loop {
            seen = self.wait(worker, seen);
            self.inside.fetch_add(1, Ordering::SeqCst);
            let job = self.job.load(Ordering::SeqCst);
            // SAFETY: `run` first clears the pointer and then waits until nobody is inside, so a pointer
            // read inside is null or its job is alive.
            if let Some(job) = unsafe { job.as_ref() } {
                job.work();
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Waits for a job newer than the `seen`-th and returns its number.
    fn wait(&self, worker: &Worker, seen: usize) -> usize {
        let newer = || Some(self.epoch.load(Ordering::SeqCst)).filter(|&epoch| epoch != seen);
        for _ in 0..SPINS {
            if let Some(epoch) = newer() {
                return epoch;
            }
            spin_loop();
        }
        loop {
            worker.asleep.store(true, Ordering::SeqCst);
            // Looked at again after the flag is up: `run` counts first and looks at the flag then.
            if let Some(epoch) = newer() {
                worker.asleep.store(false, Ordering::SeqCst);
                return epoch;
            }
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 7, 1000] {
            let hits: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
            parallel_for(count, |i| {
                hits[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "{count}");
        }
    }

    #[test]
    fn jobs_in_jobs_and_from_many_threads_end() {
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        parallel_for(8, |i| parallel_for(3, |j| _ = sum.fetch_add(i * j, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 4 * 200 * 28 * 3);
    }

    #[test]
    fn a_panic_comes_back_and_the_pool_lives_on() {
        let panic = catch_unwind(|| parallel_for(4, |i| assert!(i != 2, "task two")));
        assert!(panic.unwrap_err().downcast_ref::<&str>().is_some_and(|text| text.contains("task two")));
        parallel_for(4, |_| {});
    }

    #[test]
    fn ranges_cover_everything() {
        for (len, grain) in [(0, 4), (1, 4), (1000, 64), (100_000, 1)] {
            let covered = AtomicUsize::new(0);
            parallel_ranges(len, grain, |range| {
                covered.fetch_add(range.len(), Ordering::Relaxed);
            });
            assert_eq!(covered.load(Ordering::Relaxed), len);
        }
    }
}
