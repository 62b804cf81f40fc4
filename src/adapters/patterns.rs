//! Selection of layers by key path, as in PEFT's configurations.
//!
//! A model may have tens of thousands of layers and a file may be hostile: plain names are looked up in a
//! table, and regular expressions are bounded in size and in steps. They may look around, as in Python.

use std::collections::{HashMap, HashSet};

use fancy_regex::{Captures, Regex, RegexBuilder};

/// Steps that the search of one pattern in one key path may go back; those of ordinary patterns need none.
const MAX_STEPS: usize = 10_000;
/// Largest compiled pattern, in bytes.
const MAX_SIZE: usize = 1 << 20;

type Outcome<T> = std::result::Result<T, String>;

/// A set of layers, given by a regular expression or by trailing parts of key paths.
#[derive(Debug, Clone)]
pub(super) enum LayerSelection {
    /// All layers.
    All,
    /// Layers with a key path that matches completely.
    Matching(Pattern),
    /// Layers with a key path that ends with one of these, in whole parts.
    EndingWith(HashSet<String>),
}

impl LayerSelection {
    /// Whether the layer at `path` is selected.
    ///
    /// # Errors
    /// Those of [`Pattern::captures`].
    pub(super) fn contains(&self, path: &str) -> Outcome<bool> {
        match self {
            Self::All => Ok(true),
            Self::Matching(pattern) => Ok(pattern.captures(path)?.is_some()),
            Self::EndingWith(names) => Ok(suffixes(path).any(|end| names.contains(end))),
        }
    }
}

/// Values by patterns for trailing parts of key paths; the first matching pattern counts.
#[derive(Debug, Clone)]
pub struct LayerPatterns<T> {
    /// Values by plain name, with their index in the list.
    plain: HashMap<String, (usize, T)>,
    expressions: Vec<(usize, Pattern, T)>,
}

impl<T: Copy> LayerPatterns<T> {
    /// Compiles `entries`, pairs of pattern and value in order; `key` is the setting named in errors.
    ///
    /// # Errors
    /// A pattern that is not a valid regular expression.
    pub fn new(key: &'static str, entries: impl IntoIterator<Item = (String, T)>) -> Outcome<Self> {
        let mut patterns = Self { plain: HashMap::new(), expressions: Vec::new() };
        for (place, (pattern, value)) in entries.into_iter().enumerate() {
            // As a regular expression, a dot would match other characters too, but key paths have dots only between parts.
            if pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
                patterns.plain.insert(pattern, (place, value));
            } else {
                // With PEFT's groups, whose numbers a pattern may use.
                let whole = Pattern::compile(key, &format!(r"(.*\.)?({pattern})$"))?;
                patterns.expressions.push((place, whole, value));
            }
        }
        Ok(patterns)
    }

    /// Returns the value of the layer at `path`.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn get(&self, path: &str) -> Outcome<Option<T>> {
        Ok(self.find(path)?.map(|(_, value)| value))
    }

    /// Returns the index of the first pattern that matches `path`, and its value.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub fn find(&self, path: &str) -> Outcome<Option<(usize, T)>> {
        let mut first =
            suffixes(path).filter_map(|end| self.plain.get(end).copied()).min_by_key(|&(place, _)| place);
        for (place, pattern, value) in &self.expressions {
            if first.is_none_or(|(best, _)| *place < best) && pattern.captures(path)?.is_some() {
                first = Some((*place, *value));
            }
        }
        Ok(first)
    }
}

/// Iterates over the trailing parts of a key path: `a.b.c` → `a.b.c`, `b.c`, `c`.
fn suffixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| Some(path.split_once('.')?.1))
}

/// A regular expression of the setting `key`, anchored at the start of the text.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    key: &'static str,
    expression: Regex,
}

impl Pattern {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// A regular expression that is invalid or too large.
    pub(super) fn compile(key: &'static str, pattern: &str) -> Outcome<Self> {
        let expression = RegexBuilder::new(&format!("^(?:{pattern})"))
            .backtrack_limit(MAX_STEPS)
            .delegate_size_limit(MAX_SIZE)
            .build()
            .map_err(|error| {
                format!("\"{key}\" has a pattern that cannot be used, \"{pattern:.100}\": {error}")
            })?;
        Ok(Self { key, expression })
    }

    /// Returns the groups of `path`, if it matches.
    ///
    /// # Errors
    /// A search that takes too many steps.
    pub(super) fn captures<'a>(&self, path: &'a str) -> Outcome<Option<Captures<'a, str>>> {
        self.expression.captures(path).map_err(|error| {
            format!("\"{}\" has a pattern that cannot be evaluated for \"{path}\": {error}", self.key)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(pattern: &str, path: &str) -> Outcome<Option<u32>> {
        LayerPatterns::new("alpha_pattern", [(pattern.to_owned(), 1)])?.get(path)
    }

    #[test]
    fn patterns_may_look_around() {
        let first = r"model\.layers\.(?!1\.)\d+\..*(?<!down)_proj";
        assert_eq!(value(first, "model.layers.0.mlp.up_proj"), Ok(Some(1)));
        assert_eq!(value(first, "model.layers.1.mlp.up_proj"), Ok(None));
        assert_eq!(value(first, "model.layers.0.mlp.down_proj"), Ok(None));
    }

    #[test]
    fn hostile_patterns_end() {
        let path = format!("model.layers.0.{}", "a".repeat(64));
        let steps = value(r"(?=a)(a|aa)+(?!a)b", &path).unwrap_err();
        assert!(steps.contains("\"alpha_pattern\"") && steps.contains("cannot be evaluated"), "{steps}");
        for large in ["a{9999}{9999}", "(?=a)(?:(?!b)a{9999}){99999999}", &"(".repeat(100_000)] {
            let found = value(large, &path);
            assert!(
                found.clone().is_err_and(|why| why.contains("cannot be")) || found == Ok(None),
                "{found:?}"
            );
        }
    }
}
