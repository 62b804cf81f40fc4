//! The format of a layer in settings: `6`, `4/32`, `mxfp4` or `dense`.

use crate::kernels::quantized::Format;
use crate::{Error, Result};

/// Parses `bits`, `bits/group_size`, a floating-point format, or `dense`, which is `None`; `group_size` is the default.
///
/// # Errors
/// The text and what was expected.
pub(super) fn parse(text: &str, group_size: usize) -> Result<Option<Format>> {
    let invalid = |why: &str| Error::Config(format!("format \"{text}\": {why}"));
    match text {
        "dense" => return Ok(None),
        "mxfp4" => return Ok(Some(Format::MXFP4)),
        _ => {}
    }
    let expected = "expected bits (6), bits and group size (4/32), mxfp4, or dense";
    let (bits, group) = text.split_once('/').unwrap_or((text, ""));
    let bits = bits.parse().map_err(|_| invalid(expected))?;
    let group = if group.is_empty() { group_size } else { group.parse().map_err(|_| invalid(expected))? };
    Format::affine(bits, group).map(Some).map_err(|error| invalid(error.what()))
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
