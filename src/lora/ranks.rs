//! Ranks that differ by layer, chosen by `rank_pattern` as [PEFT](https://github.com/huggingface/peft) chooses them.

use std::collections::{BTreeMap, BTreeSet};

use super::config::TrainingConfig;
use crate::io::adapters::Patterns;
use crate::models::Model;
use crate::{Error, Result};

/// Largest rank of a layer.
const MOST: u32 = 1 << 16;

/// The rank of each layer that is adapted.
#[derive(Debug)]
pub(super) struct Ranks {
    usual: u32,
    patterns: Vec<String>,
    chosen: Patterns<u32>,
    /// Places of the patterns that have chosen a rank.
    used: BTreeSet<usize>,
    /// Layers that were asked for, and those of them with a rank above 0.
    asked: usize,
    adapted: usize,
}

impl Ranks {
    /// The ranks that `config` describes.
    ///
    /// # Errors
    /// A pattern that is no regular expression, or a rank out of range.
    pub(super) fn of(config: &TrainingConfig) -> Result<Self> {
        let entries = config.rank_pattern.iter().flatten();
        if let Some((pattern, rank)) = entries.clone().find(|&(_, &rank)| rank > MOST) {
            return Err(Error::Config(format!(
                "rank_pattern has {rank} for \"{pattern}\", expected 0 (no adapter) to {MOST}"
            )));
        }
        let patterns = entries.clone().map(|(pattern, _)| pattern.clone()).collect();
        let entries = entries.map(|(pattern, &rank)| (pattern.clone(), rank));
        let chosen = Patterns::new("rank_pattern", entries).map_err(Error::Config)?;
        let usual = config.initial_rank();
        Ok(Self { usual, patterns, chosen, used: BTreeSet::new(), asked: 0, adapted: 0 })
    }

    /// The rank of the layer at `path`; 0 for no adapter.
    pub(super) fn choose(&mut self, path: &str) -> u32 {
        let found = self.chosen.find(path);
        self.used.extend(found.map(|(place, _)| place));
        let rank = found.map_or(self.usual, |(_, rank)| rank);
        self.asked += 1;
        self.adapted += usize::from(rank > 0);
        rank
    }

    /// Whether the choices made so far are what the patterns were meant for.
    ///
    /// # Errors
    /// A pattern that has chosen no rank; ranks of which none is above 0.
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

/// Ranks of the adapters on `model` by layer, where they differ.
///
/// # Errors
/// None of its own.
pub(super) fn differing(model: &mut dyn Model) -> Result<BTreeMap<String, u32>> {
    let mut ranks = BTreeMap::new();
    model.visit_linears(&mut |path, layer| {
        if let Some(b) = &*layer.lora_b {
            ranks.insert(path.to_owned(), b.dim(0) as u32);
        }
        Ok(())
    })?;
    let is_uniform = ranks.values().min() == ranks.values().max();
    Ok(if is_uniform { BTreeMap::new() } else { ranks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(json: &str) -> Result<Ranks, String> {
        let config: TrainingConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Ranks::of(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let mut ranks = ranks(
            r#"{"lora_rank": 4, "rank_pattern": {"layers.1.mlp.up_proj": 2, "up_proj": 3, "(q|k)_proj": 0}}"#,
        )
        .unwrap();
        assert!(ranks.check().unwrap_err().to_string().contains("\"layers.1.mlp.up_proj\""));
        let found =
            ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "layers.1.self_attn.k_proj", "layers.1.o_proj"]
                .map(|path| ranks.choose(path));
        assert_eq!(found, [3, 2, 0, 4]);
        ranks.check().unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        let message = |json: &str| ranks(json).unwrap_err();
        assert!(message(r#"{"rank_pattern": {"(q": 1}}"#).contains("\"rank_pattern\" has a pattern"));
        let large = message(r#"{"rank_pattern": {"q_proj": 65537}}"#);
        assert!(large.contains("65537 for \"q_proj\"") && large.contains("to 65536"), "{large}");
        assert!(message(r#"{"rank_pattern": {"q_proj": -1}}"#).contains("-1"));
        let mut none = ranks(r#"{"rank_pattern": {"proj": 0}}"#).unwrap();
        none.choose("x.proj");
        assert!(none.check().unwrap_err().to_string().contains("leaves no layer"));
    }
}
