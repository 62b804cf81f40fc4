//! Updates as bytes.
//!
//! | codec | file | bits of `n` numbers |
//! |---|---|---|
//! | `fp16` | `scalar` | 16n |
//! | `int8` | `scalar` | 8n + 32 |
//! | [`qsgd`](https://arxiv.org/abs/1610.02132) | `scalar` | ⌈log₂(2s+1)⌉·n + 32 for `s` levels |
//! | [`sign`](https://arxiv.org/abs/1802.04434) | `scalar` | n + 32 |
//! | [`top_k`](https://arxiv.org/abs/1712.01887) | `top_k` | (⌈log₂ n⌉ + 32)·k |
//! | [`power_sgd`](https://arxiv.org/abs/1905.13727) | `power_sgd` | 32·r·(rows + columns); 32n where that is less |
//!
//! rounded up to bytes, and a byte that names the codec. Shapes do not travel: who decodes knows the model, so that a
//! message cannot ask for memory.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

mod bits;
mod power_sgd;
mod scalar;
#[cfg(test)]
mod tests;
mod top_k;

/// Most elements of one tensor.
const MAX_ELEMENTS: usize = 1 << 32;

/// A codec and its options.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "codec", rename_all = "snake_case", deny_unknown_fields)]
pub enum Codec {
    /// Nearest float16.
    Fp16 {},
    /// 255 steps between plus and minus the largest magnitude, rounded by chance.
    Int8 {},
    /// Steps between plus and minus the norm, rounded by chance.
    Qsgd {
        /// Steps on each side of zero.
        #[serde(default = "seven")]
        levels: u8,
    },
    /// Signs, and the mean magnitude.
    Sign {},
    /// The numbers of largest magnitude.
    TopK {
        /// Fraction of the numbers that is sent.
        #[serde(default = "one_percent")]
        fraction: f64,
    },
    /// Two factors of the matrix `[first dimension, the others]`.
    PowerSgd {
        /// Columns of a factor.
        #[serde(default = "one")]
        rank: u16,
    },
}

fn seven() -> u8 {
    7
}

fn one_percent() -> f64 {
    0.01
}

fn one() -> u16 {
    1
}

impl Codec {
    /// Its name, as in settings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fp16 {} => "fp16",
            Self::Int8 {} => "int8",
            Self::Qsgd { .. } => "qsgd",
            Self::Sign {} => "sign",
            Self::TopK { .. } => "top_k",
            Self::PowerSgd { .. } => "power_sgd",
        }
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Fp16 {} => 1,
            Self::Int8 {} => 2,
            Self::Qsgd { .. } => 3,
            Self::Sign {} => 4,
            Self::TopK { .. } => 5,
            Self::PowerSgd { .. } => 6,
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// The first that is wrong, by name.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Qsgd { levels: 0 } => Err(Error::Config("levels is 0, expected 1 to 255".into())),
            Self::TopK { fraction } if !(fraction > 0.0 && fraction <= 1.0) => {
                Err(Error::Config(format!("fraction is {fraction}, expected above 0 and at most 1")))
            }
            Self::PowerSgd { rank: 0 } => Err(Error::Config("rank is 0, expected at least 1".into())),
            _ => Ok(()),
        }
    }

    /// Bytes of an encoded tensor.
    ///
    /// # Errors
    /// Wrong options, or a tensor of more than 2³² elements.
    pub fn wire_bytes(&self, shape: &[usize]) -> Result<usize> {
        self.validate()?;
        let count = elements(shape)?;
        let bits = match *self {
            _ if count == 0 => 0,
            Self::Fp16 {} => 16 * count,
            Self::Int8 {} => 32 + 8 * count,
            Self::Qsgd { levels } => 32 + scalar::width(levels) as usize * count,
            Self::Sign {} => 32 + count,
            Self::TopK { fraction } => {
                top_k::kept(count, fraction) * (top_k::index_bits(count) as usize + 32)
            }
            Self::PowerSgd { rank } => 32 * power_sgd::numbers(shape, rank),
        };
        Ok(1 + bits.div_ceil(8))
    }

    /// Encodes a tensor; whatever is drawn by chance depends on `seed`. `PowerSGD` goes on from the factors of the
    /// `previous` message.
    ///
    /// # Errors
    /// Wrong options; numbers that are not finite or not of this shape.
    pub fn encode(
        &self,
        values: &[f64],
        shape: &[usize],
        seed: u64,
        previous: Option<&[u8]>,
    ) -> Result<Vec<u8>> {
        let size = self.wire_bytes(shape)?;
        if values.len() != elements(shape)? {
            return Err(Error::Config(format!("{} numbers are not of shape {shape:?}", values.len())));
        }
        let limit = f64::from(f32::MAX);
        if let Some(index) = values.iter().position(|x| x.is_nan() || x.abs() > limit) {
            return Err(Error::Config(format!("the number at {index} is not finite in float32")));
        }
        let mut message = Vec::with_capacity(size);
        message.push(self.tag());
        match *self {
            _ if values.is_empty() => {}
            Self::Fp16 {} => scalar::encode_fp16(values, &mut message),
            Self::Int8 {} => scalar::encode_int8(values, seed, &mut message),
            Self::Qsgd { levels } => scalar::encode_qsgd(values, levels, seed, &mut message),
            Self::Sign {} => scalar::encode_sign(values, &mut message),
            Self::TopK { fraction } => top_k::encode(values, fraction, &mut message),
            Self::PowerSgd { rank } => {
                let previous =
                    previous.filter(|previous| previous.len() == size && previous[0] == self.tag());
                power_sgd::encode(
                    values,
                    shape,
                    rank,
                    seed,
                    previous.map(|previous| &previous[1..]),
                    &mut message,
                );
            }
        }
        Ok(message)
    }

    /// Decodes a tensor of `shape`.
    ///
    /// # Errors
    /// A message of another codec or length, or one that no encoder makes.
    pub fn decode(&self, message: &[u8], shape: &[usize]) -> Result<Vec<f32>> {
        let size = self.wire_bytes(shape)?;
        let count = elements(shape)?;
        let malformed =
            |what: String| Error::Config(format!("a {} message is malformed: {what}", self.name()));
        let Some((&tag, body)) = message.split_first() else {
            return Err(malformed("it is empty".into()));
        };
        if tag != self.tag() {
            return Err(malformed(format!("it begins with {tag}, expected {}", self.tag())));
        }
        if message.len() != size {
            return Err(malformed(format!("it has {} bytes, expected {size} for {shape:?}", message.len())));
        }
        let values = match *self {
            _ if count == 0 => Ok(Vec::new()),
            Self::Fp16 {} => Ok(scalar::decode_fp16(body)),
            Self::Int8 {} => scalar::decode_int8(body),
            Self::Qsgd { levels } => scalar::decode_qsgd(body, levels, count),
            Self::Sign {} => scalar::decode_sign(body, count),
            Self::TopK { fraction } => top_k::decode(body, fraction, count),
            Self::PowerSgd { rank } => power_sgd::decode(body, shape, rank),
        };
        let values = values.map_err(|what| malformed(what.into()))?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(malformed(format!("the number at {index} is not finite"))),
            None => Ok(values),
        }
    }
}

/// Number of elements.
fn elements(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim));
    count.filter(|&count| count <= MAX_ELEMENTS).ok_or_else(|| {
        Error::Config(format!("a tensor of shape {shape:?} has more than {MAX_ELEMENTS} elements"))
    })
}

/// The float32 at byte `at`.
fn float(body: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(std::array::from_fn(|i| body[at + i]))
}
