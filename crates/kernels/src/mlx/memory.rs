//! Memory of dead arrays, which is kept for the next ones.

use mlx_rs::memory;

use crate::error::MlxResult;

/// Gives all of it back to the system.
///
/// # Errors
/// What MLX raises.
pub fn clear_cache() -> MlxResult<()> {
    // SAFETY: takes nothing, and only touches memory that no array has.
    unsafe { mlx_sys::eat_buffer_cache_clear() };
    memory::clear_cache()
}

/// Bytes of live arrays.
///
/// # Errors
/// What MLX raises.
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
