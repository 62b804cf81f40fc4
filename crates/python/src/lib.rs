//! The Python module `efficientai_toolkit._core`; the only room that names pyo3.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python arrive by value")]

use pyo3::pymodule;

mod array;
mod enter;
mod error;
mod evaluate;
mod generate;
mod hardware;
mod json;
mod kernels;
mod lora;
mod model;
mod observer;
mod tokenizer;

/// The engine of `efficientai_toolkit`; use the package around it.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::evaluate::{score_rows, score_tokens};
    #[pymodule_export]
    use super::generate::generate;
    #[pymodule_export]
    use super::hardware::{accelerate_mlx, hardware, process_group, sgemm_calls, start};
    #[pymodule_export]
    use super::kernels::{measure_convolution, measure_kernel, report_kernels};
    #[pymodule_export]
    use super::lora::{
        analyze_lora, convert_adapter, defaults, epoch_batches, estimate_memory, fuse_adapter, train_lora,
        validate_lora,
    };
    #[pymodule_export]
    use super::model::{Model, convert, create_model, load};
    #[pymodule_export]
    use super::tokenizer::Tokenizer;
}
