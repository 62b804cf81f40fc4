//! Parallel writes to disjoint parts of one slice.

use std::marker::PhantomData;
use std::ops::Range;

use crate::runtime::pool::parallel_for;

/// A mutable slice shared by the tasks of a parallel loop, which borrow disjoint parts of it.
#[derive(Clone, Copy)]
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it only hands out parts, and who asks for them vouches that no two overlap.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// A slice with gaps that other code may use: only the requested parts are accessed.
    ///
    /// # Safety
    /// The elements are writable, and nothing else accesses the requested parts.
    pub(crate) unsafe fn from_raw(data: *mut T, len: usize) -> Self {
        Self { data, len, slice: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Mutable subslice `range`.
    ///
    /// # Safety
    /// No two parts in use at once may overlap.
    ///
    /// # Panics
    /// If `range` is out of bounds.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: within the slice as just checked; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Calls `task` in parallel with the index and contents of every chunk of `len` elements; the last may be shorter.
pub(crate) fn parallel_chunks<T: Send>(slice: &mut [T], len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    let len = len.max(1);
    let shared = Disjoint::new(slice);
    parallel_for(shared.len().div_ceil(len), |i| {
        // SAFETY: chunks of different indices do not overlap, and each index comes once.
        let chunk = unsafe { shared.part(i * len..((i + 1) * len).min(shared.len())) };
        task(i, chunk);
    });
}

/// Calls `task` in parallel with each item, which may borrow from several slices.
pub(crate) fn parallel_items<T: Send>(items: impl Iterator<Item = T>, task: impl Fn(&mut T) + Sync) {
    let mut items: Vec<T> = items.collect();
    parallel_chunks(&mut items, 1, |_, item| item.iter_mut().for_each(&task));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_slice_once() {
        for (total, len) in [(0, 3), (7, 3), (9, 3), (5, 100), (3, 0)] {
            let mut slice = vec![0; total];
            parallel_chunks(&mut slice, len, |index, chunk| {
                for x in chunk {
                    *x += index + 1;
                }
            });
            let expected: Vec<usize> = (0..total).map(|i| i / len.max(1) + 1).collect();
            assert_eq!(slice, expected);
        }
    }

    #[test]
    fn items_may_hold_parts_of_two_slices() {
        let (mut left, mut right) = ([0; 7], [0; 4]);
        parallel_items(left.chunks_mut(2).zip(&mut right), |(left, right)| {
            **right = left.len();
            left.fill(1);
        });
        assert_eq!((left, right), ([1; 7], [2, 2, 2, 1]));
    }
}
