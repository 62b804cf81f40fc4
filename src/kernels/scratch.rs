//! Working memory of kernels, kept between calls: fresh pages cost more than many a kernel.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers kept for reuse at most, and the bytes of all of them together.
const KEPT: usize = 32;
const KEPT_BYTES: usize = 256 << 20;

/// A cache line: buffers start on one.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

static FREE: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

/// Plain numbers, for which every pattern of bits is a value.
pub(super) trait Plain: bytemuck::Pod + Send + Sync {}
impl<T: bytemuck::Pod + Send + Sync> Plain for T {}

/// `len` elements with what the last user left in them; goes back when dropped.
pub(super) struct Scratch<T> {
    lines: Vec<Line>,
    len: usize,
    element: std::marker::PhantomData<T>,
}

/// A buffer of `len` elements on a cache line, of unspecified content.
pub(super) fn take<T: Plain>(len: usize) -> Scratch<T> {
    let wanted = (len * size_of::<T>()).div_ceil(LINE);
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // The smallest that is large enough.
    let fit = free
        .iter()
        .enumerate()
        .filter(|(_, lines)| lines.len() >= wanted)
        .min_by_key(|(_, lines)| lines.len())
        .map(|(index, _)| index);
    let recycled = fit.map(|index| free.swap_remove(index));
    drop(free);
    let lines = recycled.unwrap_or_else(|| vec![Line([0; LINE]); wanted]);
    Scratch { lines, len, element: std::marker::PhantomData }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(lines);
        while free.len() > KEPT || free.iter().map(|lines| lines.len() * LINE).sum::<usize>() > KEPT_BYTES {
            let largest =
                free.iter().enumerate().max_by_key(|(_, lines)| lines.len()).map(|(index, _)| index);
            largest.map(|index| free.swap_remove(index));
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
}
