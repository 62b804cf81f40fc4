//! Huge pages for memory that is read repeatedly: fewer TLB misses, and hardware prefetching across more memory.

use mlx_rs::Array;

use crate::mlx::device::on_cpu;

/// Moves the memory of evaluated `arrays` to huge pages. Has no effect on GPUs or outside Linux.
pub fn use_large_pages<'a>(arrays: impl IntoIterator<Item = &'a Array>) {
    if on_cpu() {
        system::collapse(arrays.into_iter().map(place).collect());
    }
}

/// First address and length in bytes.
fn place(array: &Array) -> (usize, usize) {
    // SAFETY: the handle is live, and only the address is taken.
    let data = unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) };
    (data as usize, array.nbytes())
}

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::c_void;

    /// Size of a huge page in bytes.
    const LARGE: usize = 2 << 20;

    /// Collapses every huge page that overlaps one of `places`, given as address and length in bytes.
    pub(crate) fn collapse(mut places: Vec<(usize, usize)>) {
        places.retain(|&(_, len)| len > 0);
        places.sort_unstable();
        let mut done = 0;
        for (start, len) in places {
            let (first, end) = ((start / LARGE * LARGE).max(done), (start + len).next_multiple_of(LARGE));
            for page in (first..end).step_by(LARGE) {
                // SAFETY: advice that changes neither what the memory holds nor who may use it; a range that
                // is not wholly the process's own is refused.
                unsafe {
                    libc::madvise(page as *mut c_void, LARGE, libc::MADV_HUGEPAGE);
                    libc::madvise(page as *mut c_void, LARGE, libc::MADV_COLLAPSE);
                }
            }
            done = end.max(done);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(crate) fn collapse(_: Vec<(usize, usize)>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, values};

    #[test]
    fn numbers_stay() {
        let arrays = [(1, 3), (1100, 1000)].map(|(m, n)| draw(&[m, n], mlx_rs::Dtype::Float32, 5));
        let before: Vec<Vec<f64>> = arrays.iter().map(values).collect();
        let empty = draw(&[0, 4], mlx_rs::Dtype::Float32, 5);
        use_large_pages(arrays.iter().chain([&empty]));
        assert_eq!(arrays.iter().map(values).collect::<Vec<_>>(), before);
    }
}
