//! Formats in settings: kinds of format, and that of a layer, `6`, `4/32`, `mxfp4`, `mxfp8`, `nvfp4` or `dense`.

use serde::{Deserialize, Serialize};

use crate::kernels::quantized::{Format, Mode};
use crate::{Error, Result};

/// Kind of format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationMode {
    /// Integers with a scale and a bias per group.
    Affine,
    /// 4-bit floating-point numbers with a power of two per group of 32.
    Mxfp4,
    /// 8-bit floating-point numbers with a power of two per group of 32.
    Mxfp8,
    /// 4-bit floating-point numbers with an 8-bit one per group of 16.
    Nvfp4,
}

impl QuantizationMode {
    pub(super) fn mode(self) -> Mode {
        match self {
            Self::Affine => Mode::Affine,
            Self::Mxfp4 => Mode::Mxfp4,
            Self::Mxfp8 => Mode::Mxfp8,
            Self::Nvfp4 => Mode::Nvfp4,
        }
    }
}

/// The format of some layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LayerSetting {
    /// Bits per weight.
    Bits(usize),
    /// `6`, `4/32`, `mxfp4`, `mxfp8`, `nvfp4` or `dense`.
    Name(String),
}

/// Parses `bits`, `bits/group_size`, a floating-point format, or `dense`, which is `None`; `group_size` is the default.
///
/// # Errors
/// The text and what was expected.
pub(super) fn parse(text: &str, group_size: usize) -> Result<Option<Format>> {
    let invalid = |why: &str| Error::Config(format!("format \"{text}\": {why}"));
    let mode = Mode::ALL.into_iter().find(|mode| mode.name() == text).and_then(Mode::float_format);
    if text == "dense" || mode.is_some() {
        return Ok(mode);
    }
    let expected = "expected bits (6), bits and group size (4/32), mxfp4, mxfp8, nvfp4, or dense";
    let (bits, group) = text.split_once('/').unwrap_or((text, ""));
    let bits = bits.parse().map_err(|_| invalid(expected))?;
    let group = if group.is_empty() { group_size } else { group.parse().map_err(|_| invalid(expected))? };
    Format::affine(bits, group).map(Some).map_err(|error| invalid(error.what()))
}

/// Names a format as settings do.
pub(super) fn describe(format: Format) -> String {
    match format.mode() {
        Mode::Affine => format!("{}/{}", format.bits(), format.group_size()),
        mode => mode.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_it() {
        let affine = |bits, group| Some(Format::affine(bits, group).unwrap());
        assert_eq!(parse("6", 64).unwrap(), affine(6, 64));
        assert_eq!(parse("4/32", 64).unwrap(), affine(4, 32));
        assert_eq!(parse("mxfp4", 64).unwrap(), Some(Format::MXFP4));
        assert_eq!(parse("mxfp8", 64).unwrap(), Some(Format::MXFP8));
        assert_eq!(parse("nvfp4", 64).unwrap(), Some(Format::NVFP4));
        assert_eq!(parse("dense", 64).unwrap(), None);
        for (text, why) in [("four", "expected bits"), ("7", "7 bits"), ("4/", "x"), ("4/16", "groups of 16")]
        {
            match parse(text, 64) {
                Err(error) => assert!(error.to_string().contains(why), "{error}"),
                Ok(format) => assert_eq!((text, format), ("4/", affine(4, 64))),
            }
        }
    }
}
