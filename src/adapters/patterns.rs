//! Selection of layers by key path, as in PEFT's configurations.
//!
//! A model may have tens of thousands of layers and a file may be hostile: plain names are looked up in a
//! table, and regular expressions are bounded in size and match in linear time.

use std::collections::{HashMap, HashSet};

use regex::Regex;

/// A set of layers, given by a regular expression or by trailing parts of key paths.
#[derive(Debug, Clone)]
pub(super) enum LayerSelection {
    /// All layers.
    All,
    /// Layers with a key path that matches completely.
    Matching(Regex),
    /// Layers with a key path that ends with one of these, in whole parts.
    EndingWith(HashSet<String>),
}

impl LayerSelection {
    /// Whether the layer at `path` is selected.
    pub(super) fn contains(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Matching(expression) => expression.is_match(path),
            Self::EndingWith(names) => suffixes(path).any(|end| names.contains(end)),
        }
    }
}

/// Values by patterns for trailing parts of key paths; the first matching pattern counts.
#[derive(Debug, Clone)]
pub struct LayerPatterns<T> {
    /// Values by plain name, with their index in the list.
    plain: HashMap<String, (usize, T)>,
    expressions: Vec<(usize, Regex, T)>,
}

impl<T: Copy> LayerPatterns<T> {
    /// Compiles `entries`, pairs of pattern and value in order; `key` is the setting named in errors.
    ///
    /// # Errors
    /// A pattern that is not a valid regular expression.
    pub fn new(
        key: &str,
        entries: impl IntoIterator<Item = (String, T)>,
    ) -> std::result::Result<Self, String> {
        let mut patterns = Self { plain: HashMap::new(), expressions: Vec::new() };
        for (place, (pattern, value)) in entries.into_iter().enumerate() {
            // As a regular expression, a dot would match other characters too, but key paths have dots only between parts.
            if pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
                patterns.plain.insert(pattern, (place, value));
            } else {
                let whole = compile(key, &format!(r"(?:.*\.)?(?:{pattern})$"))?;
                patterns.expressions.push((place, whole, value));
            }
        }
        Ok(patterns)
    }

    /// Returns the value of the layer at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<T> {
        self.find(path).map(|(_, value)| value)
    }

    /// Returns the index of the first pattern that matches `path`, and its value.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<(usize, T)> {
        let plain = suffixes(path).filter_map(|end| self.plain.get(end).copied());
        let expressions = self
            .expressions
            .iter()
            .filter(|(_, expression, _)| expression.is_match(path))
            .map(|&(place, _, value)| (place, value));
        plain.chain(expressions).min_by_key(|&(place, _)| place)
    }
}

/// Iterates over the trailing parts of a key path: `a.b.c` → `a.b.c`, `b.c`, `c`.
fn suffixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| Some(path.split_once('.')?.1))
}

/// Compiles `pattern`, anchored at the start of the text.
///
/// # Errors
/// A regular expression that is invalid or too large; `key` names the setting.
pub(super) fn compile(key: &str, pattern: &str) -> std::result::Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})"))
        .map_err(|error| format!("\"{key}\" has a pattern that cannot be used: {error}"))
}
