//! Device on which mistralrs computes: on the CPU, or in a build with the cargo feature `cuda` on
//! the first such device.

use std::sync::LazyLock;

use candle_core::Device;

/// The device. A machine without one that works computes on the CPU; the profile says which it was.
pub(crate) static DEVICE: LazyLock<Device> =
    LazyLock::new(|| Device::cuda_if_available(0).unwrap_or(Device::Cpu));

/// Returns the device's name for the profile: the kernels of each device, and on the CPU of each
/// instruction set, sum in an order of their own.
pub(crate) fn name() -> String {
    match &*DEVICE {
        Device::Cpu => format!("cpu {}", instruction_set()),
        Device::Cuda(_) => "cuda".into(),
        Device::Metal(_) => "metal".into(),
    }
}

/// The widest instructions that the matrix products use.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "x86_64 avx512";
        }
        if std::arch::is_x86_feature_detected!("fma") {
            return "x86_64 fma";
        }
    }
    std::env::consts::ARCH
}
