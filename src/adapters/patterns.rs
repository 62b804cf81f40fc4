//! Ways in which PEFT's configurations choose layers by their key paths.
//!
//! A path may have tens of thousands of rivals and a file may be hostile: plain names are looked up, and regular expressions
//! are bounded in size and match in linear time.

use std::collections::{HashMap, HashSet};

use regex::Regex;

/// Layers, by one expression for whole paths or by the last parts of their paths.
#[derive(Debug, Clone)]
pub(super) enum LayerSelection {
    /// All of them.
    All,
    /// Those whose whole path fits.
    Matching(Regex),
    /// Those whose path ends with one of these, in whole parts.
    EndingWith(HashSet<String>),
}

impl LayerSelection {
    pub(super) fn contains(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Matching(expression) => expression.is_match(path),
            Self::EndingWith(names) => suffixes(path).any(|end| names.contains(end)),
        }
    }
}

/// Values by patterns for the last parts of paths; of several that fit, the first counts.
#[derive(Debug, Clone)]
pub struct LayerPatterns<T> {
    /// Values by names without special characters, with their place in the list.
    plain: HashMap<String, (usize, T)>,
    expressions: Vec<(usize, Regex, T)>,
}

impl<T: Copy> LayerPatterns<T> {
    /// `entries`: patterns and values in order; `key` is for messages.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(
        key: &str,
        entries: impl IntoIterator<Item = (String, T)>,
    ) -> std::result::Result<Self, String> {
        let mut patterns = Self { plain: HashMap::new(), expressions: Vec::new() };
        for (place, (pattern, value)) in entries.into_iter().enumerate() {
            // A dot fits a dot, and in a path nothing else stands where a name has one.
            if pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
                patterns.plain.insert(pattern, (place, value));
            } else {
                let whole = compile(key, &format!(r"(?:.*\.)?(?:{pattern})$"))?;
                patterns.expressions.push((place, whole, value));
            }
        }
        Ok(patterns)
    }

    /// Value of the layer at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<T> {
        self.find(path).map(|(_, value)| value)
    }

    /// PromptShape in the list of the pattern that counts for the layer at `path`, and its value.
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

/// `a.b.c` → `a.b.c`, `b.c`, `c`
fn suffixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| Some(path.split_once('.')?.1))
}

/// `pattern` for texts from their start on.
///
/// # Errors
/// No regular expression, or one that is too large; `key` names it.
pub(super) fn compile(key: &str, pattern: &str) -> std::result::Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})"))
        .map_err(|error| format!("\"{key}\" has a pattern that cannot be used: {error}"))
}
