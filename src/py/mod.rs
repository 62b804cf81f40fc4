//! The Python module `efficientai_toolkit._core`; the only room that names pyo3.

use pyo3::prelude::*;

mod enter;
mod error;
mod generate;
mod hardware;
mod json;
mod lora;
mod model;
mod observer;
mod tokenizer;

/// The engine of `efficientai_toolkit`; use the package around it.
#[pymodule]
pub mod _core {
    use super::*;

    #[pymodule_export]
    use super::generate::generate;
    #[pymodule_export]
    use super::hardware::{check_mlx_version, hardware};
    #[pymodule_export]
    use super::lora::{defaults, train_lora, validate_data};
    #[pymodule_export]
    use super::model::{Model, create_model, load};
    #[pymodule_export]
    use super::tokenizer::Tokenizer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // A second interpreter of one process keeps the first one's logger.
        let _ = pyo3_log::try_init();
        super::hardware::configure(module.py())
    }
}
