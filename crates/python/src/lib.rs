//! The Python module `efficientai_toolkit._core`, a submodule per room of the engine; the only crate that names pyo3.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python arrive by value")]

use pyo3::{PyResult, Python, pymodule};

mod adapters;
mod arguments;
mod array;
mod data;
mod device;
mod distill;
mod enter;
mod error;
mod evaluate;
mod exclusive;
mod exports;
mod generate;
mod json;
mod kernels;
mod lora;
mod models;
mod observer;
mod progress;
mod prune;
mod quantize;
mod submodules;
mod subset;

/// The engine of `efficientai_toolkit`; use the package around it.
#[pymodule]
mod _core {
    use super::{PyResult, Python, pymodule, submodules};

    // Without the module as an argument: the stubs would allow any name.
    #[pymodule_init]
    fn init(py: Python<'_>) -> PyResult<()> {
        submodules::register(py)
    }

    /// Adapters on disk.
    #[pymodule]
    mod adapters {
        #[pymodule_export]
        use crate::adapters::{convert, fuse};
    }

    /// The order of training data.
    #[pymodule]
    mod data {
        #[pymodule_export]
        use crate::data::epoch_batches;
    }

    /// The machine and the device in use.
    #[pymodule]
    mod device {
        #[pymodule_export]
        use crate::device::{accelerate_mlx, hardware, process_group, sgemm_calls, start};
    }

    /// Distillation.
    #[pymodule]
    mod distill {
        #[pymodule_export]
        use crate::distill::{check, defaults, distill};
    }

    /// Scoring texts.
    #[pymodule]
    mod evaluate {
        #[pymodule_export]
        use crate::evaluate::{divergence, score_rows, score_tokens};
    }

    /// Models in the formats of other programs.
    #[pymodule]
    mod exports {
        #[pymodule_export]
        use crate::exports::{
            defaults, read_gguf_card, verify_gguf, verify_gguf_adapter, write_gguf, write_gguf_adapter,
        };
    }

    /// Generating text.
    #[pymodule]
    mod generate {
        #[pymodule_export]
        use crate::generate::{Engine, Sampler, check, defaults, embed, generate};
    }

    /// Measuring the kernels.
    #[pymodule]
    mod kernels {
        #[pymodule_export]
        use crate::kernels::{measure, measure_convolution, report};
    }

    /// Fine-tuning.
    #[pymodule]
    mod lora {
        #[pymodule_export]
        use crate::lora::{analyze, check, check_output, defaults, estimate_memory, train, validate};
    }

    /// Language models and their tokenizers.
    #[pymodule]
    mod models {
        #[pymodule_export]
        use crate::models::{
            Model, Tokenizer, convert, copy_description, create, describe_gguf, load, load_tokenizer,
        };
    }

    /// Events of long-running work.
    #[pymodule]
    mod progress {
        #[pymodule_export]
        use crate::progress::events;
    }

    /// Pruning.
    #[pymodule]
    mod prune {
        #[pymodule_export]
        use crate::prune::{check, check_output, defaults, prune, validate};
    }

    /// Post-training quantization.
    #[pymodule]
    mod quantize {
        #[pymodule_export]
        use crate::quantize::{check, check_output, defaults, quantize, validate};
    }

    /// Data-set quantization.
    #[pymodule]
    mod subset {
        #[pymodule_export]
        use crate::subset::{check, check_output, defaults, select};
    }
}
