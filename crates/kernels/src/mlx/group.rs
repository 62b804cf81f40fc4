//! Process groups over the backends of MLX: ring, MPI, NCCL or JACCL, whichever the processes were launched with.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Stream};
use mlx_sys::mlx_distributed_group;

use crate::error::MlxResult;

/// Processes launched together by `mlx.launch` or `mpirun`; a single process forms a group of size 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    rank: usize,
    size: usize,
}

impl Group {
    /// Group of a single process.
    pub const ALONE: Self = Self { rank: 0, size: 1 };

    /// Initializes communication and returns the group of all processes; the first call blocks until all have joined.
    ///
    /// # Errors
    /// Processes that cannot reach each other.
    pub fn join() -> MlxResult<Self> {
        Ok(Handle::of(c"any")?.group())
    }

    /// Rank of this process, from 0 to `size - 1`.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the main process (rank 0), which logs and writes files.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// All-reduce: sum of `x` over all processes, bitwise identical on each. All processes must call it.
    ///
    /// # Errors
    /// An exception raised by MLX.
    pub fn all_sum(&self, x: &Array) -> MlxResult<Array> {
        if self.size == 1 {
            return Ok(x.clone());
        }
        // NCCL moves the memory of GPUs, the others that of the processor.
        let stream = if Handle::of(c"nccl")?.group().size > 1 { Stream::gpu() } else { Stream::cpu() };
        let group = Handle::of(c"any")?;
        // SAFETY: all handles are live, and MLX makes a new array in the place of the empty one.
        let (status, sum) = unsafe {
            let mut sum = mlx_sys::mlx_array_new();
            let status = mlx_sys::mlx_distributed_all_sum(&raw mut sum, x.as_ptr(), group.0, stream.as_ptr());
            (status, Array::from_ptr(sum))
        };
        if status == 0 { Ok(sum) } else { Err(Exception::custom("MLX cannot sum over processes")) }
    }

    /// All-reduce of f64 values, exact for counts. All processes must call it.
    ///
    /// # Errors
    /// An exception raised by MLX.
    pub fn all_sum_f64<const N: usize>(&self, values: [f64; N]) -> crate::Result<[f64; N]> {
        if self.size == 1 {
            return Ok(values);
        }
        // Three f32 hold the 53 digits of an f64.
        let parts: Vec<f32> = values.iter().flat_map(|&value| split(value)).collect();
        let sum = self.all_sum(&Array::from_slice(&parts, &[parts.len() as i32]))?;
        crate::eval([&sum])?;
        let sum = sum.as_slice::<f32>().to_vec();
        Ok(std::array::from_fn(|i| sum[3 * i..3 * i + 3].iter().map(|&part| f64::from(part)).sum()))
    }

    /// Barrier: blocks until all processes have called it.
    ///
    /// # Errors
    /// An exception raised by MLX.
    pub fn wait(&self) -> crate::Result<()> {
        self.all_sum_f64([0.0]).map(|_| ())
    }
}

/// Handle of a group, which MLX keeps for the lifetime of the process.
struct Handle(mlx_distributed_group);

impl Handle {
    fn of(backend: &CStr) -> MlxResult<Self> {
        // The first call through mlx-rs replaces mlx-c's error handler, which would end the process.
        mlx_rs::memory::active_memory()?;
        // SAFETY: MLX fills a fresh handle; the name is a C string that lives through the call.
        let (status, handle) = unsafe {
            let mut handle = mlx_sys::mlx_distributed_group_new();
            let status = mlx_sys::mlx_distributed_init(&raw mut handle, false, backend.as_ptr());
            (status, Self(handle))
        };
        if status == 0 {
            Ok(handle)
        } else {
            Err(Exception::custom(
                "the processes of this run cannot reach each other; check the hosts that mlx.launch was given",
            ))
        }
    }

    fn group(&self) -> Group {
        // SAFETY: the handle is live.
        let (rank, size) = unsafe {
            (mlx_sys::mlx_distributed_group_rank(self.0), mlx_sys::mlx_distributed_group_size(self.0))
        };
        Group { rank: rank as usize, size: size as usize }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { mlx_sys::mlx_distributed_group_free(self.0) };
    }
}

/// Splits `value` into f32 parts whose sum is exact.
fn split(value: f64) -> [f32; 3] {
    let high = value as f32;
    let rest = value - f64::from(high);
    let middle = rest as f32;
    [high, middle, (rest - f64::from(middle)) as f32]
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums over one process, and over the parts of a number, are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_process_alone_is_its_own_group() {
        let group = Group::join().unwrap();
        assert_eq!((group.rank(), group.size(), group.leads()), (0, 1, true));
        assert_eq!(group.all_sum_f64([1.5, -2.0]).unwrap(), [1.5, -2.0]);
        assert_eq!(group.all_sum(&Array::from_f32(3.0)).unwrap().item_exact::<f32>(), 3.0);
        group.wait().unwrap();
    }

    #[test]
    fn parts_sum_to_the_whole() {
        for value in [0.0, 1.0 / 3.0, -1e9 - 0.123, 16_777_217.0] {
            assert_eq!(split(value).iter().map(|&part| f64::from(part)).sum::<f64>(), value);
        }
    }
}
