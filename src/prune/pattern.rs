//! Patterns of the weights that are removed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which weights may be removed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// Any weights.
    Unstructured,
    /// Whole blocks.
    Depth,
    /// Channels of layers.
    Width,
    /// Whole blocks, and channels of those that stay.
    WidthDepth,
    /// All but `keep` of every `of` consecutive weights of a row.
    Groups {
        /// Number of weights that stay.
        keep: usize,
        /// Length of a group.
        of: usize,
    },
}

impl Pattern {
    /// Checks that rows of `columns` weights have this pattern.
    ///
    /// # Errors
    /// The rows of the layer at `path` are not whole groups.
    pub(super) fn check(self, path: &str, columns: usize) -> Result<()> {
        match self {
            Self::Groups { of, .. } if !columns.is_multiple_of(of) => Err(Error::Config(format!(
                "pattern: the rows of {path} have {columns} weights, which is not a multiple of {of}; choose another \
                 pattern, or leave the layer alone with --skip '{path}'"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the result is a smaller model, and not one with weights of zero.
    #[must_use]
    pub fn is_structured(self) -> bool {
        matches!(self, Self::Depth | Self::Width | Self::WidthDepth)
    }

    /// Fraction of the weights that a pattern of groups removes; `None` where it may be any.
    #[must_use]
    pub fn sparsity(self) -> Option<f64> {
        match self {
            Self::Unstructured | Self::Depth | Self::Width | Self::WidthDepth => None,
            Self::Groups { keep, of } => Some(1.0 - keep as f64 / of as f64),
        }
    }
}

/// Longest groups: longer ones hardly differ from no pattern.
const MAX_GROUP: usize = 64;

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "unstructured" => return Ok(Self::Unstructured),
            "depth" => return Ok(Self::Depth),
            "width" => return Ok(Self::Width),
            "width+depth" => return Ok(Self::WidthDepth),
            _ => {}
        }
        let numbers =
            text.split_once(':').and_then(|(keep, of)| Some((keep.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((keep, of)) if 0 < keep && keep < of && of <= MAX_GROUP => Ok(Self::Groups { keep, of }),
            Some(_) => Err(Error::Config(format!(
                "pattern is {text}; of N:M, at most {MAX_GROUP} weights in a group, at least one and not all must stay"
            ))),
            None => Err(Error::Config(format!(
                "pattern is {text:?}, expected \"unstructured\", N:M such as \"2:4\", where N of M weights stay, \
                 \"depth\", where blocks go, \"width\", where channels go, or \"width+depth\""
            ))),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstructured => f.write_str("unstructured"),
            Self::Depth => f.write_str("depth"),
            Self::Width => f.write_str("width"),
            Self::WidthDepth => f.write_str("width+depth"),
            Self::Groups { keep, of } => write!(f, "{keep}:{of}"),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse().map_err(|error: Error| error.to_string())
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["unstructured", "2:4", "1:4", "4:8", "depth", "width", "width+depth"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!("1:4".parse::<Pattern>().unwrap().sparsity(), Some(0.75));
        for (text, why) in
            [("2:2", "not all"), ("0:4", "at least one"), ("2:400", "at most 64"), ("x", "2:4")]
        {
            let message = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
