//! What the linked MLX says of itself and its devices, as safe functions.

use std::ffi::{CStr, c_char};

use crate::{
    mlx_cuda_is_available, mlx_device_count, mlx_device_free, mlx_device_info_free, mlx_device_info_get,
    mlx_device_info_get_size, mlx_device_info_get_string, mlx_device_info_new, mlx_device_new_type,
    mlx_device_type__MLX_GPU, mlx_metal_is_available, mlx_string_data, mlx_string_free, mlx_string_new,
    mlx_version,
};

/// Version of the MLX library that is loaded.
#[must_use]
pub fn version() -> String {
    // SAFETY: a fresh string handle that MLX fills and that is freed after copying.
    unsafe {
        let mut handle = mlx_string_new();
        let version = match mlx_version(&raw mut handle) {
            0 => CStr::from_ptr(mlx_string_data(handle)).to_string_lossy().into_owned(),
            _ => String::new(),
        };
        mlx_string_free(handle);
        version
    }
}

/// Which GPU backend the loaded library was built with and can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuBackend {
    /// Apple's GPUs.
    Metal,
    /// NVIDIA's GPUs.
    Cuda,
}

/// The first GPU that MLX can use.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// Who drives it.
    pub backend: GpuBackend,
    /// Its name.
    pub name: String,
    /// Bytes that should stay resident at most (Metal only).
    pub recommended_working_set: Option<usize>,
}

/// The first usable GPU, if there is one.
#[must_use]
pub fn gpu() -> Option<Gpu> {
    let backend = [
        (GpuBackend::Metal, mlx_metal_is_available as unsafe extern "C" fn(*mut bool) -> i32),
        (GpuBackend::Cuda, mlx_cuda_is_available),
    ]
    .into_iter()
    .find_map(|(backend, is_available)| {
        let mut available = false;
        // SAFETY: the pointer is to a local that lives through the call.
        (unsafe { is_available(&raw mut available) } == 0 && available).then_some(backend)
    })?;
    // SAFETY: handles are created, used and freed here; strings are copied before that.
    unsafe {
        let mut count = 0;
        if mlx_device_count(&raw mut count, mlx_device_type__MLX_GPU) != 0 || count == 0 {
            return None;
        }
        let device = mlx_device_new_type(mlx_device_type__MLX_GPU, 0);
        let mut info = mlx_device_info_new();
        let known = mlx_device_info_get(&raw mut info, device) == 0;
        let mut name: *const c_char = std::ptr::null();
        let named = known && mlx_device_info_get_string(&raw mut name, info, c"device_name".as_ptr()) == 0;
        let mut size = 0;
        let key = c"max_recommended_working_set_size".as_ptr();
        let sized = known && mlx_device_info_get_size(&raw mut size, info, key) == 0;
        let gpu = Gpu {
            backend,
            name: if named { CStr::from_ptr(name).to_string_lossy().into_owned() } else { "GPU".into() },
            recommended_working_set: sized.then_some(size),
        };
        mlx_device_info_free(info);
        mlx_device_free(device);
        Some(gpu)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_the_version_it_was_compiled_for() {
        assert_eq!(super::version(), crate::MLX_VERSION);
    }
}
