//! Metadata of an architecture, whose keys begin with its name.

use crate::io::gguf::{Array, Metadata, Value};
use crate::{Error, Result};

/// The keys of `architecture` in `metadata`.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'a str,
}

impl Keys<'_> {
    /// The whole key.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number; of a list with one entry per layer, the largest, which all layers that have one share.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>> {
        let key = self.full(key);
        if !matches!(self.metadata.get(&key), Some(Value::Array(_))) {
            return self.metadata.count(&key);
        }
        let counts = self.metadata.counts(&key)?.unwrap_or_default();
        let largest = counts.iter().copied().max().unwrap_or(0);
        if counts.iter().any(|&count| count != 0 && count != largest) {
            return Err(Error::ModelLoading(format!(
                "\"{key}\" differs between layers, expected one number for all"
            )));
        }
        Ok(Some(largest))
    }

    /// As [`count`](Self::count), for keys that every file has.
    pub(super) fn required(&self, key: &str) -> Result<u64> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number with a fraction.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.full(key))
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.string(&self.full(key))
    }

    /// The list under `key`, if there is one.
    pub(super) fn list(&self, key: &str) -> Option<&Array> {
        match self.metadata.get(&self.full(key)) {
            Some(Value::Array(array)) => Some(array),
            _ => None,
        }
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::ModelLoading(format!("\"{}\" is missing", self.full(key)))
    }
}
