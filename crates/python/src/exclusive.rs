//! A value that one call uses at a time.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use efficientai_toolkit::{Error, Result};
use pyo3::{PyResult, Python};

/// Time between two looks for Ctrl-C.
const POLL: Duration = Duration::from_millis(100);

/// A value for one thread at a time; the others wait.
pub(super) struct Exclusive<T> {
    value: Mutex<T>,
    user: Mutex<Option<ThreadId>>,
    freed: Condvar,
}

impl<T> Exclusive<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { value: Mutex::new(value), user: Mutex::new(None), freed: Condvar::new() }
    }

    /// The value, once no other thread uses it. The caller must not hold the GIL.
    ///
    /// # Errors
    /// [`Error::Training`] if this thread uses it already, as in a callback; [`Error::Interrupted`] after Ctrl-C.
    pub(super) fn lock(&self) -> Result<Guard<'_, T>> {
        let mut user = lock(&self.user);
        while let Some(thread) = *user {
            if thread == thread::current().id() {
                return Err(Error::Training(
                    "the model is in use by the call whose callback this is; wait until that returns".into(),
                ));
            }
            let (guard, timeout) =
                self.freed.wait_timeout(user, POLL).unwrap_or_else(PoisonError::into_inner);
            user = guard;
            if timeout.timed_out() {
                drop(user);
                Python::attach(|py| -> PyResult<()> {
                    py.check_signals()?;
                    Ok(())
                })
                .map_err(|_| Error::Interrupted)?;
                user = lock(&self.user);
            }
        }
        *user = Some(thread::current().id());
        drop(user);
        Ok(Guard { value: lock(&self.value), owner: self })
    }
}

/// Locks a mutex, whatever panicked before: the values are valid at all times.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Access to the value of an [`Exclusive`].
pub(super) struct Guard<'a, T> {
    value: MutexGuard<'a, T>,
    owner: &'a Exclusive<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        *lock(&self.owner.user) = None;
        self.owner.freed.notify_one();
    }
}
