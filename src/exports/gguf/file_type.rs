//! Number formats of whole files.

use serde::{Deserialize, Serialize};

use crate::io::gguf::TensorType;

/// The number formats of the matrices of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(non_camel_case_types, missing_docs, reason = "the names of llama.cpp")]
pub enum FileType {
    /// The closest to what each weight is.
    Auto,
    F32,
    F16,
    Bf16,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q4_k")]
    Q4_K,
    #[serde(rename = "q5_k")]
    Q5_K,
    #[serde(rename = "q6_k")]
    Q6_K,
    /// `Q4_K`, and `Q6_K` where errors count most.
    #[serde(rename = "q4_k_m")]
    Q4_K_M,
    /// `Q5_K`, and `Q6_K` where errors count most.
    #[serde(rename = "q5_k_m")]
    Q5_K_M,
}

impl FileType {
    /// The type of most matrices, and `general.file_type`, the id of `enum llama_ftype`. `None` for [`Auto`](Self::Auto).
    #[must_use]
    pub fn layout(self) -> Option<(TensorType, u32)> {
        Some(match self {
            Self::Auto => return None,
            Self::F32 => (TensorType::F32, 0),
            Self::F16 => (TensorType::F16, 1),
            Self::Bf16 => (TensorType::BF16, 32),
            Self::Q4_0 => (TensorType::Q4_0, 2),
            Self::Q4_1 => (TensorType::Q4_1, 3),
            Self::Q5_0 => (TensorType::Q5_0, 8),
            Self::Q5_1 => (TensorType::Q5_1, 9),
            Self::Q8_0 => (TensorType::Q8_0, 7),
            Self::Q4_K => (TensorType::Q4_K, 14),
            Self::Q5_K => (TensorType::Q5_K, 16),
            Self::Q6_K => (TensorType::Q6_K, 18),
            Self::Q4_K_M => (TensorType::Q4_K, 15),
            Self::Q5_K_M => (TensorType::Q5_K, 17),
        })
    }

    /// The id of a file most of whose weights are of `kind`.
    #[must_use]
    pub fn id_of(kind: TensorType) -> u32 {
        match kind {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q4_1 => 3,
            TensorType::Q8_0 => 7,
            TensorType::Q5_0 => 8,
            TensorType::Q5_1 => 9,
            TensorType::Q2_K => 10,
            TensorType::Q3_K => 12,
            TensorType::Q4_K => 14,
            TensorType::Q5_K => 16,
            TensorType::Q6_K => 18,
            TensorType::BF16 => 32,
            TensorType::MXFP4 => 38,
        }
    }
}
