//! Number formats of tensors, with their ids and block sizes in ggml (`ggml.h`).

use std::fmt;

/// How the numbers of a tensor are stored: in blocks of [`block_size`](Self::block_size) numbers of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, missing_docs, reason = "the names of ggml")]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    MXFP4,
}

impl TensorType {
    /// All types that are read.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::MXFP4,
    ];

    /// Id, numbers per block, and bytes per block.
    const fn layout(self) -> (u32, usize, usize) {
        match self {
            Self::F32 => (0, 1, 4),
            Self::F16 => (1, 1, 2),
            Self::Q4_0 => (2, 32, 18),
            Self::Q4_1 => (3, 32, 20),
            Self::Q5_0 => (6, 32, 22),
            Self::Q5_1 => (7, 32, 24),
            Self::Q8_0 => (8, 32, 34),
            Self::Q2_K => (10, 256, 84),
            Self::Q3_K => (11, 256, 110),
            Self::Q4_K => (12, 256, 144),
            Self::Q5_K => (13, 256, 176),
            Self::Q6_K => (14, 256, 210),
            Self::BF16 => (30, 1, 2),
            Self::MXFP4 => (39, 32, 17),
        }
    }

    /// The type with the id `id` of `enum ggml_type`; `None` if it is not read.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Id in `enum ggml_type`.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.layout().0
    }

    /// Numbers per block; the length of a row is a multiple of it.
    #[must_use]
    pub const fn block_size(self) -> usize {
        self.layout().1
    }

    /// Bytes per block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Whether a block holds codes and scales instead of numbers.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.block_size() > 1
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
