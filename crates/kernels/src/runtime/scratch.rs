//! Working memory of kernels, recycled between calls: page faults of fresh memory cost more than many kernels.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Size of a cache line in bytes; buffers are aligned to it.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Lines up to which a buffer is recycled by its thread, without a lock.
const LOCAL_MAX: usize = (64 << 10) / LINE;

/// Lines that each free list keeps.
const LOCAL_CAPACITY: usize = (2 << 20) / LINE;
const SHARED_CAPACITY: usize = (256 << 20) / LINE;

static SHARED: Mutex<FreeList> = Mutex::new(FreeList::new());

thread_local! {
    static LOCAL: RefCell<FreeList> = const { RefCell::new(FreeList::new()) };
}

/// Unused buffers, least recently used first.
struct FreeList {
    buffers: Vec<Vec<Line>>,
    lines: usize,
}

impl FreeList {
    const fn new() -> Self {
        Self { buffers: Vec::new(), lines: 0 }
    }

    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        let index = self.buffers.iter().rposition(|buffer| buffer.len() == lines)?;
        self.lines -= lines;
        Some(self.buffers.remove(index))
    }

    fn put(&mut self, buffer: Vec<Line>, kept: usize) {
        self.lines += buffer.len();
        self.buffers.push(buffer);
        while self.lines > kept {
            self.lines -= self.buffers.remove(0).len();
        }
    }
}

/// Rounds `lines` up to a size class, so that buffers can be reused for requests of similar size.
fn size_class(lines: usize) -> usize {
    let step = (lines.next_power_of_two() / 8).max(1);
    lines.next_multiple_of(step)
}

/// Plain number types, for which every bit pattern is valid.
pub(crate) trait Plain: bytemuck::Pod + Send + Sync {}
impl<T: bytemuck::Pod + Send + Sync> Plain for T {}

/// Buffer of `len` elements, returned to its free list when dropped.
pub(crate) struct Scratch<T> {
    lines: Vec<Line>,
    len: usize,
    element: std::marker::PhantomData<T>,
}

/// Returns a cache-line-aligned buffer of `len` elements with unspecified contents.
///
/// # Panics
/// The system has no memory; the kernel then fails, and the process lives on.
pub(crate) fn take<T: Plain>(len: usize) -> Scratch<T> {
    let wanted = size_class((len * size_of::<T>()).div_ceil(LINE));
    let recycled = if wanted <= LOCAL_MAX {
        LOCAL.with_borrow_mut(|free| free.take(wanted))
    } else {
        SHARED.lock().unwrap_or_else(PoisonError::into_inner).take(wanted)
    };
    let lines = recycled.unwrap_or_else(|| zeros(wanted));
    Scratch { lines, len, element: std::marker::PhantomData }
}

fn zeros(lines: usize) -> Vec<Line> {
    let mut zeros = Vec::new();
    let room = zeros.try_reserve_exact(lines);
    assert!(room.is_ok(), "out of memory: the system has no {} bytes", lines.saturating_mul(LINE));
    zeros.resize(lines, Line([0; LINE]));
    zeros
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.len() <= LOCAL_MAX {
            // Fails only while the thread ends; the buffer is then freed.
            let _ = LOCAL.try_with(|free| free.borrow_mut().put(lines, LOCAL_CAPACITY));
        } else {
            SHARED.lock().unwrap_or_else(PoisonError::into_inner).put(lines, SHARED_CAPACITY);
        }
    }
}

impl<T: Plain> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = self.lines.as_ptr().cast::<T>();
        // SAFETY: the lines hold at least `len` elements, are aligned to more than `T`, and any bits are a `T`.
        unsafe { std::slice::from_raw_parts(bytes, self.len) }
    }
}

impl<T: Plain> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = self.lines.as_mut_ptr().cast::<T>();
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(bytes, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let mut first = take::<f32>(1000);
        assert_eq!(first.as_ptr() as usize % LINE, 0);
        first[999] = 1.0;
        drop(first);
        assert_eq!(take::<f32>(0).len(), 0);
        assert_eq!(take::<u16>(3).len(), 3);
    }

    #[test]
    #[should_panic(expected = "out of memory: the system has no")]
    fn memory_that_is_not_there_is_a_panic_and_no_abort() {
        take::<u8>(usize::MAX / 4);
    }
}
