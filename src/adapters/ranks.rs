//! Ranks that differ by layer, selected by `rank_pattern` as in [PEFT](https://github.com/huggingface/peft).

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::patterns::LayerPatterns;
use crate::{Error, Result};

/// Largest rank of a layer.
const MOST: u32 = 1 << 16;

/// The rank of each adapted layer.
#[derive(Debug)]
pub struct RankPattern {
    default: u32,
    patterns: Vec<String>,
    chosen: LayerPatterns<u32>,
    /// Indices of patterns that have determined a rank.
    used: BTreeSet<usize>,
    /// Number of layers asked for, and of those with a rank above 0.
    asked: usize,
    adapted: usize,
}

impl RankPattern {
    /// Compiles `rank_pattern`; `default` is the rank of layers that no pattern matches.
    ///
    /// # Errors
    /// A pattern that is not a valid regular expression, or a rank out of range.
    pub fn new(default: u32, rank_pattern: Option<&IndexMap<String, u32>>) -> Result<Self> {
        let entries = rank_pattern.into_iter().flatten();
        if let Some((pattern, rank)) = entries.clone().find(|&(_, &rank)| rank > MOST) {
            return Err(Error::Config(format!(
                "rank_pattern has {rank} for \"{pattern}\", expected 0 (no adapter) to {MOST}"
            )));
        }
        let patterns = entries.clone().map(|(pattern, _)| pattern.clone()).collect();
        let entries = entries.map(|(pattern, &rank)| (pattern.clone(), rank));
        let chosen = LayerPatterns::new("rank_pattern", entries).map_err(Error::Config)?;
        Ok(Self { default, patterns, chosen, used: BTreeSet::new(), asked: 0, adapted: 0 })
    }

    /// Returns the rank of the layer at `path`; 0 for no adapter.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub(super) fn rank_of(&mut self, path: &str) -> Result<u32> {
        let found = self.chosen.find(path).map_err(Error::Config)?;
        self.used.extend(found.map(|(place, _)| place));
        let rank = found.map_or(self.default, |(_, rank)| rank);
        self.asked += 1;
        self.adapted += usize::from(rank > 0);
        Ok(rank)
    }

    /// Checks that all patterns were used.
    ///
    /// # Errors
    /// A pattern that has determined no rank, or ranks that are all 0.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(place) = (0..self.patterns.len()).find(|place| !self.used.contains(place)) {
            return Err(Error::Config(format!(
                "rank_pattern has \"{}\", which decides the rank of no layer: none that gets an adapter fits, or an \
                 earlier pattern fits too",
                self.patterns[place]
            )));
        }
        if self.asked > 0 && self.adapted == 0 {
            return Err(Error::Config("rank_pattern leaves no layer with a rank above 0".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(patterns: &[(&str, u32)]) -> Result<RankPattern, String> {
        let patterns = patterns.iter().map(|&(pattern, rank)| (pattern.to_owned(), rank)).collect();
        RankPattern::new(4, Some(&patterns)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let mut ranks = ranks(&[("layers.1.mlp.up_proj", 2), ("up_proj", 3), ("(q|k)_proj", 0)]).unwrap();
        assert!(ranks.check().unwrap_err().to_string().contains("\"layers.1.mlp.up_proj\""));
        let found =
            ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "layers.1.self_attn.k_proj", "layers.1.o_proj"]
                .map(|path| ranks.rank_of(path).unwrap());
        assert_eq!(found, [3, 2, 0, 4]);
        ranks.check().unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        assert!(ranks(&[("(q", 1)]).unwrap_err().contains("\"rank_pattern\" has a pattern"));
        let large = ranks(&[("q_proj", 65537)]).unwrap_err();
        assert!(large.contains("65537 for \"q_proj\"") && large.contains("to 65536"), "{large}");
        let mut none = ranks(&[("proj", 0)]).unwrap();
        none.rank_of("x.proj").unwrap();
        assert!(none.check().unwrap_err().to_string().contains("leaves no layer"));
    }
}
