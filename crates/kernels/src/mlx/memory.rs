//! Memory of arrays, and the cache of freed buffers.

use mlx_rs::memory;

use crate::error::MlxResult;

/// Releases all cached buffers to the operating system.
///
/// # Errors
/// An exception raised by MLX.
pub fn clear_cache() -> MlxResult<()> {
    // SAFETY: takes nothing, and only touches memory that no array has.
    unsafe { mlx_sys::eat_buffer_cache_clear() };
    memory::clear_cache()
}

/// Makes arrays on a CPU for which the system has no memory an exception, where MLX would write through a null
/// pointer.
pub fn check_allocations() {
    // SAFETY: takes nothing; it is called before other threads allocate arrays, and further calls do nothing.
    unsafe { mlx_sys::eat_check_allocations() };
}

/// Memory of live arrays in bytes, without cached buffers.
///
/// # Errors
/// An exception raised by MLX.
pub fn active() -> MlxResult<usize> {
    // SAFETY: takes nothing and returns a number.
    let kept = unsafe { mlx_sys::eat_buffer_cache_bytes() };
    Ok(memory::active_memory()?.saturating_sub(kept))
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::*;
    use crate::eval;
    use crate::softmax::softmax;

    #[test]
    fn dead_arrays_leave_nothing_behind() {
        let x = Array::zeros::<f32>(&[256, 1024]).unwrap();
        eval([&x]).unwrap();
        // Other tests come and go beside this one, so that only some attempts are undisturbed.
        let counted = || {
            clear_cache().unwrap();
            let before = active().unwrap();
            let y = softmax(&x).unwrap();
            eval([&y]).unwrap();
            let during = active().unwrap();
            let size = y.nbytes();
            drop(y);
            clear_cache().unwrap();
            during >= before + size && active().unwrap() + size <= during
        };
        assert!((0..100).any(|_| counted()));
    }
}
