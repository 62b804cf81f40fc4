//! Settings of the aggregation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules::Rule;
use crate::{Error, Result};

/// What happens to a client with numbers that are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInvalid {
    /// The aggregation fails, and names it.
    #[default]
    Error,
    /// The others are aggregated.
    Drop,
}

/// What stands for the updates before a rule sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "pre_aggregation", deny_unknown_fields)]
pub enum PreAggregation {
    /// [Nearest-neighbour mixing](https://arxiv.org/abs/2302.01772): the mean of each update and those nearest to it,
    /// `n - f` in all.
    Nnm {
        /// Updates that may be hostile.
        f: usize,
    },
    /// [Bucketing](https://arxiv.org/abs/2006.09365): means of groups drawn by chance.
    Bucketing {
        /// Updates per group.
        #[serde(default = "two")]
        bucket_size: usize,
        /// Seed of the groups; another one every round.
        #[serde(default)]
        seed: u64,
    },
}

fn two() -> usize {
    2
}

/// Settings of the aggregation.
#[derive(Debug, Clone)]
pub struct AggregateConfig {
    /// The rule and its options.
    pub rule: Rule,
    /// What the rule is given instead of the updates.
    pub pre_aggregation: Option<PreAggregation>,
    /// What happens to a client with numbers that are not finite.
    pub on_invalid: OnInvalid,
}

impl AggregateConfig {
    /// Reads the `options` of the rule `rule`, those of all rules among them.
    ///
    /// # Errors
    /// An unknown rule or option, a value of the wrong type, by name.
    pub fn parse(rule: &str, mut options: Map<String, Value>) -> Result<Self> {
        let on_invalid = match options.remove("on_invalid") {
            Some(value) => read(value, "on_invalid")?,
            None => OnInvalid::default(),
        };
        let mut before = Map::new();
        if let Some(name) = options.remove("pre_aggregation").filter(|name| !name.is_null()) {
            before.extend(["bucket_size", "seed"].iter().filter_map(|key| options.remove_entry(*key)));
            if name == "nnm"
                && let Some(f) = options.get("f")
            {
                before.insert("f".into(), f.clone());
                if !Rule::KNOW_F.contains(&rule) {
                    options.remove("f");
                }
            }
            before.insert("pre_aggregation".into(), name);
        }
        options.insert("rule".into(), rule.into());
        Ok(Self {
            rule: read(Value::Object(options), rule)?,
            pre_aggregation: (!before.is_empty())
                .then(|| read(Value::Object(before), "pre_aggregation"))
                .transpose()?,
            on_invalid,
        })
    }

    /// Checks every value, for `n` clients.
    ///
    /// # Errors
    /// The first invalid value, by name.
    pub fn validate(&self, n: usize) -> Result<()> {
        match self.pre_aggregation {
            Some(_) if self.rule.trusts_last() => Err(Error::Config(format!(
                "{} takes no pre_aggregation: the update of the server must not be mixed with others",
                self.rule.name()
            ))),
            Some(PreAggregation::Bucketing { bucket_size: 0, .. }) => {
                Err(Error::Config("bucket_size is 0, expected at least 1".into()))
            }
            Some(PreAggregation::Nnm { f }) if f.saturating_mul(2) >= n => Err(Error::Config(format!(
                "nnm: f is {f}, but {n} updates allow at most {}",
                n.saturating_sub(1) / 2
            ))),
            Some(PreAggregation::Bucketing { bucket_size, .. }) => {
                self.rule.validate(n.div_ceil(bucket_size))
            }
            _ => self.rule.validate(n),
        }
    }
}

fn read<T: for<'a> Deserialize<'a>>(value: Value, subject: &str) -> Result<T> {
    serde_json::from_value(value).map_err(|error| Error::Config(format!("{subject}: {error}")))
}
