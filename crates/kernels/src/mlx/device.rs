//! Device of the default stream.

use mlx_rs::{Device, DeviceType, Stream, thread_local_default_stream};

/// Whether operations built on this thread run on the CPU.
#[must_use]
pub fn on_cpu() -> bool {
    let device_type = match thread_local_default_stream() {
        Some(stream) => stream_device_type(&stream),
        None => Device::try_default().ok().and_then(|device| device.get_type().ok()),
    };
    matches!(device_type, Some(DeviceType::Cpu))
}

fn stream_device_type(stream: &Stream) -> Option<DeviceType> {
    // SAFETY: `device` is a fresh handle that MLX fills and that is freed here; the stream is alive.
    let device_type = unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let mut device_type = mlx_sys::mlx_device_type__MLX_CPU;
        let found = mlx_sys::mlx_stream_get_device(&raw mut device, stream.as_ptr()) == 0
            && mlx_sys::mlx_device_get_type(&raw mut device_type, device) == 0;
        mlx_sys::mlx_device_free(device);
        found.then_some(device_type)
    };
    device_type.map(|device_type| match device_type {
        mlx_sys::mlx_device_type__MLX_CPU => DeviceType::Cpu,
        _ => DeviceType::Gpu,
    })
}
