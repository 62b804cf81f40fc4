//! Metadata of a file: named values of a dozen types.

use indexmap::IndexMap;

use crate::{Error, Result};

/// A value with its type in the file.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the types of the format")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one type. Files with arrays of arrays are refused, as by llama.cpp.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the types of the format")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Strings in one buffer: a vocabulary takes less memory than in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// End of each string in `text`.
    ends: Vec<u32>,
}

impl Strings {
    /// Adds a string.
    ///
    /// # Errors
    /// More than 4 GB in all.
    pub fn push(&mut self, text: &str) -> Result<()> {
        let end = u32::try_from(self.text.len() + text.len());
        self.ends.push(end.map_err(|_| Error::ModelLoading("strings of more than 4 GB".to_owned()))?);
        self.text.push_str(text);
        Ok(())
    }

    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string number `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    /// All strings, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

/// The metadata of a file, in its order. Getters name the key that is missing or of another type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(pub IndexMap<String, Value>);

impl Metadata {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Sets `key`.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        self.0.insert(key.into(), value);
    }

    /// A whole number of any width.
    ///
    /// # Errors
    /// A value that is none, or is negative.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        self.optional(key, "a whole number", |value| match value {
            Value::U8(value) => Some((*value).into()),
            Value::I8(value) => u64::try_from(*value).ok(),
            Value::U16(value) => Some((*value).into()),
            Value::I16(value) => u64::try_from(*value).ok(),
            Value::U32(value) => Some((*value).into()),
            Value::I32(value) => u64::try_from(*value).ok(),
            Value::U64(value) => Some(*value),
            Value::I64(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A number with a fraction.
    ///
    /// # Errors
    /// A value that is none.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.optional(key, "a number", |value| match value {
            // The shortest decimal number that is this one: 1e-5, not 9.99999974737875e-06.
            Value::F32(value) => value.to_string().parse().ok().filter(|value: &f64| value.is_finite()),
            Value::F64(value) => Some(*value).filter(|value| value.is_finite()),
            _ => None,
        })
    }

    /// A flag.
    ///
    /// # Errors
    /// A value that is none.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.optional(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// A value that is none.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        self.optional(key, "a string", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// A list of strings.
    ///
    /// # Errors
    /// A value that is none.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.optional(key, "a list of strings", |value| match value {
            Value::Array(Array::String(values)) => Some(values),
            _ => None,
        })
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// A value that is none.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.optional(key, "a list of numbers", |value| match value {
            Value::Array(Array::F32(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// A value that is none, or holds negative numbers.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.optional(key, "a list of whole numbers", |value| match value {
            Value::Array(Array::U8(values)) => Some(values.iter().map(|&value| value.into()).collect()),
            Value::Array(Array::U16(values)) => Some(values.iter().map(|&value| value.into()).collect()),
            Value::Array(Array::U32(values)) => Some(values.iter().map(|&value| value.into()).collect()),
            Value::Array(Array::U64(values)) => Some(values.clone()),
            Value::Array(Array::I8(values)) => {
                values.iter().map(|&value| u64::try_from(value).ok()).collect()
            }
            Value::Array(Array::I16(values)) => {
                values.iter().map(|&value| u64::try_from(value).ok()).collect()
            }
            Value::Array(Array::I32(values)) => {
                values.iter().map(|&value| u64::try_from(value).ok()).collect()
            }
            Value::Array(Array::I64(values)) => {
                values.iter().map(|&value| u64::try_from(value).ok()).collect()
            }
            _ => None,
        })
    }

    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => {
                Err(Error::ModelLoading(format!("\"{key}\" is {}, expected {expected}", describe(value))))
            }
        }
    }
}

/// A value in a message.
fn describe(value: &Value) -> String {
    match value {
        Value::String(_) => "a string".to_owned(),
        Value::Array(Array::String(_)) => "a list of strings".to_owned(),
        Value::Array(Array::Bool(_)) => "a list of flags".to_owned(),
        Value::Array(Array::F32(_) | Array::F64(_)) => "a list of numbers".to_owned(),
        Value::Array(_) => "a list of whole numbers".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::U8(value) => value.to_string(),
        Value::I8(value) => value.to_string(),
        Value::U16(value) => value.to_string(),
        Value::I16(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_kept_apart() {
        let mut strings = Strings::default();
        for text in ["a", "", "héé"] {
            strings.push(text).unwrap();
        }
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["a", "", "héé"]);
        assert_eq!((strings.len(), strings.get(3)), (3, None));
    }

    #[test]
    fn values_of_another_type_are_named() {
        let mut metadata = Metadata::default();
        metadata.insert("a", Value::I32(-1));
        metadata.insert("b", Value::F32(1e-5));
        assert_eq!(metadata.count("c").unwrap(), None);
        assert_eq!(metadata.float("b").unwrap(), Some(1e-5));
        let error = metadata.count("a").unwrap_err().to_string();
        assert_eq!(error, "\"a\" is -1, expected a whole number");
        let error = metadata.strings("a").unwrap_err().to_string();
        assert_eq!(error, "\"a\" is -1, expected a list of strings");
    }
}
