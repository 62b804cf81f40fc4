//! Hardware detection, device selection and memory limits of the MLX allocator.

use std::path::Path;

use mlx_rs::{Device, DeviceType, memory};
use mlx_sys::info::{self, Gpu, GpuBackend};
use serde::Serialize;
use sysinfo::System;

use crate::{Error, Result, kernels};

/// Hardware, and the limits set by [`configure`].
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `metal`, `cuda` or `cpu`.
    pub backend: &'static str,
    /// Name of the GPU, or of the CPU if there is none.
    pub chip: String,
    /// Number of logical cores available to this process.
    pub cores: usize,
    /// Instruction sets available to CPU kernels, best last.
    pub isa: Vec<&'static str>,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
    /// Version of the MLX library in use.
    pub mlx_version: String,
    /// Memory limit of MLX in bytes, above which it frees its cache and waits on a GPU, and allocation fails on a
    /// CPU.
    pub memory_limit_bytes: usize,
    /// Maximum size of the cache of freed buffers, in bytes.
    pub cache_limit_bytes: usize,
    /// Wired memory limit of the GPU in bytes; 0 without a GPU.
    pub wired_limit_bytes: usize,
    /// Reason why no GPU is used.
    pub note: Option<String>,
}

/// Selects the device and sets the limits of the allocator. Meant to be called once, on import.
///
/// # Errors
/// Errors from MLX.
pub fn configure() -> Result<Report> {
    let system = System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram())
            .with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let memory_bytes = system
        .cgroup_limits()
        .map_or_else(|| system.total_memory(), |cgroup| cgroup.total_memory.min(system.total_memory()));
    // The first call through mlx-rs replaces mlx-c's error handler, which would end the process.
    memory::active_memory()?;
    kernels::memory::check_allocations();
    let gpu = info::gpu();
    let device_type = if gpu.is_some() { DeviceType::Gpu } else { DeviceType::Cpu };
    Device::set_default(&Device::new(device_type, 0));
    let (memory_limit, cache_limit, wired_limit) = set_limits(memory_bytes as usize, gpu.as_ref())?;
    let cpu = || system.cpus().first().map_or_else(String::new, |cpu| cpu.brand().trim().to_owned());
    Ok(Report {
        backend: gpu.as_ref().map_or("cpu", |gpu| match gpu.backend {
            GpuBackend::Metal => "metal",
            GpuBackend::Cuda => "cuda",
        }),
        note: gpu.is_none().then(why_no_gpu),
        chip: gpu.map_or_else(cpu, |gpu| gpu.name),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa: isa(),
        memory_bytes,
        mlx_version: info::version(),
        memory_limit_bytes: memory_limit,
        cache_limit_bytes: cache_limit,
        wired_limit_bytes: wired_limit,
    })
}

/// Sets and returns the memory, cache and wired limits in bytes.
fn set_limits(memory_bytes: usize, gpu: Option<&Gpu>) -> Result<(usize, usize, usize)> {
    if matches!(gpu, Some(Gpu { backend: GpuBackend::Cuda, .. })) {
        // MLX derives its limits from the card's memory, which the machine's says nothing of.
        let limit = memory::memory_limit()?;
        memory::set_cache_limit(limit / 4)?;
        return Ok((limit, limit / 4, 0));
    }
    // A tenth stays for the system and Python. On a CPU the system recycles small buffers well and `kernels` keep
    // the large ones; a GPU's are dear to make.
    let (limit, cache) = (memory_bytes / 10 * 9, if gpu.is_some() { memory_bytes / 4 } else { 0 });
    memory::set_memory_limit(limit)?;
    memory::set_cache_limit(cache)?;
    let wired = match gpu.and_then(|gpu| gpu.recommended_working_set) {
        // Before macOS 15 there is no such limit, and nothing is lost.
        Some(size) if memory::set_wired_limit(size).is_ok() => size,
        _ => 0,
    };
    Ok((limit, cache, wired))
}

/// Checks that the loaded MLX library has the version this crate was compiled for.
///
/// # Errors
/// [`Error::Dependency`] with both versions and a command that fixes it.
pub fn check_mlx_version() -> Result<()> {
    let (expected, found) = (mlx_sys::MLX_VERSION, info::version());
    if expected == found {
        return Ok(());
    }
    Err(Error::Dependency(format!(
        "the engine was built for mlx {expected}, but mlx {found} is loaded; run: pip install mlx=={expected}"
    )))
}

fn why_no_gpu() -> String {
    let reason = if cfg!(target_os = "macos") {
        "Metal is not available here; MLX runs on the CPU"
    } else if Path::new("/proc/driver/nvidia/version").exists() {
        "an NVIDIA driver is loaded, but the installed MLX has no CUDA; the README tells how to switch"
    } else {
        "no GPU was found; MLX runs on the CPU"
    };
    reason.to_owned()
}

fn isa() -> Vec<&'static str> {
    let mut isa = Vec::new();
    macro_rules! probe {
        ($detect:ident, $($name:tt),*) => {
            $(if std::arch::$detect!($name) { isa.push($name); })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    probe!(
        is_x86_feature_detected,
        "avx",
        "f16c",
        "fma",
        "avx2",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vnni",
        "avx512bf16"
    );
    #[cfg(target_arch = "aarch64")]
    probe!(is_aarch64_feature_detected, "neon", "fp16", "dotprod", "bf16", "i8mm");
    isa
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_reported_are_in_force() {
        let report = configure().unwrap();
        assert_eq!(memory::memory_limit().unwrap(), report.memory_limit_bytes);
        assert!(report.memory_limit_bytes as u64 <= report.memory_bytes);
        assert!(report.cores > 0 && !report.chip.is_empty());
        assert_eq!(report.mlx_version, mlx_sys::MLX_VERSION);
        assert_eq!(report.backend == "cpu", report.note.is_some());
    }
}
