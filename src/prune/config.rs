//! Settings of pruning.

use serde::{Deserialize, Serialize};

use super::method::Method;
use super::pattern::Pattern;
use crate::{Error, Result};

/// What becomes narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Feed-forward layers: their channels.
    Mlp,
    /// Attention: its heads, in groups that share a key and a value head.
    Heads,
    /// The residual stream, and with it every layer.
    Hidden,
}

/// How the sparsity is divided among the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// The same everywhere.
    Uniform,
    /// Less where more weights stand out ([OWL](https://arxiv.org/abs/2310.05175)).
    Owl,
    /// Less where predictions suffer more.
    Sensitivity,
}

/// What is done to the weights that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Nothing.
    None,
    /// Rows are scaled so that outputs on calibration text are closest to those of the original.
    Scale,
    /// All of them are changed so that outputs on calibration text are closest to those of the original.
    LeastSquares,
}

/// How pruned weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// With their zeros.
    Dense,
    /// Without their zeros, as [compressed-tensors](https://github.com/vllm-project/compressed-tensors) does.
    SparseBitmask,
}

/// Settings of pruning. Defaults are those of [`Default`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, named by the user")]
pub struct PruneConfig {
    /// Model folder.
    pub model_path: Option<String>,
    /// Output folder.
    pub output: Option<String>,
    /// How what goes is chosen; see [`method`](Self::method).
    pub method: Option<Method>,
    /// Fraction of the weights, blocks or channels that goes; a pattern N:M says it itself.
    pub sparsity: Option<f64>,
    /// Which weights may go together.
    pub pattern: Pattern,
    /// What becomes narrower, with a pattern of width.
    pub width: Vec<Part>,
    /// Whether only consecutive blocks go.
    pub contiguous: bool,
    /// How the sparsity is divided among the blocks.
    pub allocation: Allocation,
    /// By how much the sparsity of a block differs from the mean at most.
    pub allocation_range: f64,
    /// A weight stands out if its score is this many times the mean of its layer.
    pub owl_threshold: f64,
    /// What is done to the weights that stay.
    pub repair: Repair,
    /// How the pruned weights are stored.
    pub format: Storage,
    /// Patterns of the key paths of layers that stay as they are.
    pub skip: Vec<String>,
    /// Calibration text: a file or folder of data.
    pub calibration: Option<String>,
    /// Maximum number of calibration sequences.
    pub calibration_sequences: usize,
    /// Tokens per calibration sequence.
    pub sequence_length: usize,
    /// Damping of `sparsegpt`: fraction of the mean diagonal of the Hessian that is added to its diagonal.
    pub damping: f64,
    /// Whether `sparsegpt` prunes the columns of large activations first.
    pub act_order: bool,
    /// Seed of the order of calibration rows and of random pruning.
    pub seed: u64,
    /// Whether to continue an interrupted run.
    pub resume: bool,
    /// Whether to replace an earlier result.
    pub overwrite: bool,
}

impl Default for PruneConfig {
    fn default() -> Self {
        Self {
            model_path: None,
            output: None,
            method: None,
            sparsity: None,
            pattern: Pattern::Unstructured,
            width: vec![Part::Mlp],
            contiguous: false,
            allocation: Allocation::Uniform,
            allocation_range: 0.08,
            owl_threshold: 5.0,
            repair: Repair::None,
            format: Storage::Dense,
            skip: Vec::new(),
            calibration: None,
            calibration_sequences: 64,
            sequence_length: 512,
            damping: 0.01,
            act_order: false,
            seed: 0,
            resume: false,
            overwrite: false,
        }
    }
}

/// Sparsity of a pattern that may have any.
const DEFAULT_SPARSITY: f64 = 0.5;
/// Sparsity of structured patterns, which cost more.
const DEFAULT_STRUCTURED_SPARSITY: f64 = 0.2;

impl PruneConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first invalid value, by name.
    pub fn validate(&self) -> Result<()> {
        let sparsity = self.sparsity();
        if !(sparsity > 0.0 && sparsity < 1.0) {
            return Err(Error::Config(format!("sparsity is {sparsity}, expected a value between 0 and 1")));
        }
        if let (Some(given), Some(own)) = (self.sparsity, self.pattern.sparsity())
            && (given - own).abs() > 1e-6
        {
            return Err(Error::Config(format!(
                "sparsity is {given}, but pattern {} removes {own}: leave sparsity out, or choose another pattern",
                self.pattern
            )));
        }
        for (name, value, least) in [
            ("calibration_sequences", self.calibration_sequences, 1),
            ("sequence_length", self.sequence_length, 8),
        ] {
            if value < least {
                return Err(Error::Config(format!("{name} is {value}, expected at least {least}")));
            }
        }
        if !(self.damping > 0.0 && self.damping < 10.0) {
            return Err(Error::Config(format!(
                "damping is {}, expected a value between 0 and 10",
                self.damping
            )));
        }
        if !(self.owl_threshold > 0.0 && self.owl_threshold.is_finite()) {
            return Err(Error::Config(format!("owl_threshold is {}, expected above 0", self.owl_threshold)));
        }
        self.check_combination()?;
        if self.pattern != Pattern::Unstructured {
            if self.allocation != Allocation::Uniform {
                return Err(Error::Config(format!(
                    "allocation: pattern {} has the same sparsity in all layers; expected uniform",
                    self.pattern
                )));
            }
            if self.act_order {
                return Err(Error::Config(
                    "act_order changes the order of columns, but the groups of a pattern are consecutive ones".into(),
                ));
            }
        }
        if self.allocation != Allocation::Uniform {
            let most = sparsity.min(1.0 - sparsity);
            if !(self.allocation_range > 0.0 && self.allocation_range < most) {
                return Err(Error::Config(format!(
                    "allocation_range is {}, expected above 0 and below {most:.2}, so that every block keeps some weights \
                     and loses some",
                    self.allocation_range
                )));
            }
        }
        Ok(())
    }

    /// Checks that method and other settings go with the pattern.
    fn check_combination(&self) -> Result<()> {
        let (method, pattern) = (self.method(), self.pattern);
        let methods: &[Method] = match pattern {
            Pattern::Depth => &[Method::Activation, Method::Random],
            Pattern::Width => {
                &[Method::Activation, Method::Wanda, Method::Taylor, Method::Magnitude, Method::Random]
            }
            Pattern::WidthDepth => &[Method::Activation, Method::Wanda, Method::Taylor, Method::Random],
            _ => &[
                Method::SparseGpt,
                Method::Wanda,
                Method::Taylor,
                Method::Magnitude,
                Method::Random,
                Method::Auto,
            ],
        };
        if !methods.contains(&method) {
            let names: Vec<&str> = methods.iter().map(|&method| method.name()).collect();
            return Err(Error::Config(format!(
                "method {} does not go with pattern {pattern}, expected {}",
                method.name(),
                names.join(", ")
            )));
        }
        let has_width = matches!(pattern, Pattern::Width | Pattern::WidthDepth);
        if has_width
            && (self.width.is_empty()
                || (1..self.width.len()).any(|i| self.width[..i].contains(&self.width[i])))
        {
            return Err(Error::Config(
                "width: expected some of mlp, heads and hidden, each at most once".into(),
            ));
        }
        let repairs = has_width && self.width == [Part::Hidden];
        if repairs && self.repair != Repair::None {
            return Err(Error::Config("repair has no meaning with width hidden alone: leave it out".into()));
        }
        let settings = [
            ("width", !has_width && self.width != [Part::Mlp]),
            ("repair", self.pattern == Pattern::Depth && self.repair != Repair::None),
            ("skip", self.pattern == Pattern::Width && !self.skip.is_empty()),
            ("act_order", self.pattern.is_structured() && self.act_order),
            ("format", self.pattern.is_structured() && self.format != Storage::Dense),
            ("resume", self.pattern.is_structured() && self.resume),
            ("contiguous", !matches!(pattern, Pattern::Depth | Pattern::WidthDepth) && self.contiguous),
        ];
        match settings.iter().find(|(_, meaningless)| *meaningless) {
            Some(("resume", _)) => Err(Error::Config(format!(
                "resume: pattern {pattern} takes one pass without checkpoints; start again with overwrite"
            ))),
            Some((key, _)) => {
                Err(Error::Config(format!("{key} has no meaning with pattern {pattern}: leave it out")))
            }
            None => Ok(()),
        }
    }

    /// Fraction of the weights, blocks or channels that goes.
    #[must_use]
    pub fn sparsity(&self) -> f64 {
        let default =
            if self.pattern.is_structured() { DEFAULT_STRUCTURED_SPARSITY } else { DEFAULT_SPARSITY };
        self.pattern.sparsity().or(self.sparsity).unwrap_or(default)
    }

    /// Fraction of the blocks and of the channels that goes: with both patterns less of each, so that together about as much
    /// goes as [`sparsity`](Self::sparsity) says.
    #[must_use]
    pub fn share(&self) -> f64 {
        match self.pattern {
            Pattern::WidthDepth => 1.0 - (1.0 - self.sparsity()).sqrt(),
            _ => self.sparsity(),
        }
    }

    /// How what goes is chosen: by default [`Method::Activation`] with structured patterns, else [`Method::SparseGpt`].
    #[must_use]
    pub fn method(&self) -> Method {
        let default = if self.pattern.is_structured() { Method::Activation } else { Method::SparseGpt };
        self.method.unwrap_or(default)
    }

    /// The calibration text, if there is any.
    ///
    /// # Errors
    /// None, where it is needed.
    pub(super) fn calibration(&self) -> Result<Option<&str>> {
        let needed = match (self.method(), self.allocation, self.repair) {
            (Method::Activation, ..) => Some("method \"activation\""),
            (Method::Wanda, ..) => Some("method \"wanda\""),
            (Method::Taylor, ..) => Some("method \"taylor\""),
            (Method::SparseGpt, ..) => Some("method \"sparsegpt\""),
            (Method::Auto, ..) => Some("method \"auto\""),
            (_, Allocation::Owl, _) => Some("allocation \"owl\""),
            (_, Allocation::Sensitivity, _) => Some("allocation \"sensitivity\""),
            (_, _, Repair::Scale | Repair::LeastSquares) => Some("repair"),
            _ => None,
        };
        match needed {
            Some(what) if self.calibration.is_none() => Err(Error::Config(format!(
                "{what} needs calibration text: set calibration (--calibration FILE)"
            ))),
            _ => Ok(self.calibration.as_deref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_the_setting_and_the_remedy() {
        let groups = Pattern::Groups { keep: 2, of: 4 };
        let of = PruneConfig::default;
        for (config, expected) in [
            (PruneConfig { sparsity: Some(1.0), ..of() }, "sparsity is 1, expected a value between 0 and 1"),
            (PruneConfig { sparsity: Some(f64::NAN), ..of() }, "sparsity is NaN"),
            (PruneConfig { sparsity: Some(0.6), pattern: groups, ..of() }, "leave sparsity out"),
            (PruneConfig { calibration_sequences: 0, ..of() }, "calibration_sequences is 0"),
            (PruneConfig { damping: 0.0, ..of() }, "damping is 0"),
            (
                PruneConfig { method: Some(Method::Wanda), pattern: Pattern::Depth, ..of() },
                "method wanda does not go with pattern depth, expected activation, random",
            ),
            (
                PruneConfig { method: Some(Method::Activation), ..of() },
                "expected sparsegpt, wanda, taylor, magnitude, random, auto",
            ),
            (PruneConfig { contiguous: true, ..of() }, "contiguous has no meaning with pattern unstructured"),
            (PruneConfig { pattern: Pattern::Depth, repair: Repair::Scale, ..of() }, "repair has no meaning"),
            (PruneConfig { pattern: Pattern::Depth, resume: true, ..of() }, "one pass without checkpoints"),
            (
                PruneConfig { pattern: Pattern::Width, skip: vec!["*".into()], ..of() },
                "skip has no meaning with pattern width",
            ),
            (
                PruneConfig { width: vec![Part::Heads], ..of() },
                "width has no meaning with pattern unstructured",
            ),
            (
                PruneConfig { width: Vec::new(), pattern: Pattern::Width, ..of() },
                "width: expected some of mlp",
            ),
            (PruneConfig { width: vec![Part::Mlp; 2], pattern: Pattern::Width, ..of() }, "each at most once"),
            (
                PruneConfig {
                    width: vec![Part::Hidden],
                    pattern: Pattern::Width,
                    repair: Repair::Scale,
                    ..of()
                },
                "repair has no meaning with width hidden alone",
            ),
            (
                PruneConfig { pattern: Pattern::WidthDepth, method: Some(Method::Magnitude), ..of() },
                "expected activation, wanda, taylor, random",
            ),
            (PruneConfig { act_order: true, pattern: groups, ..of() }, "act_order"),
            (PruneConfig { allocation: Allocation::Owl, pattern: groups, ..of() }, "expected uniform"),
            (
                PruneConfig { allocation: Allocation::Owl, sparsity: Some(0.95), ..of() },
                "allocation_range is 0.08, expected above 0 and below 0.05",
            ),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = of().calibration().unwrap_err().to_string();
        assert!(message.contains("sparsegpt") && message.contains("--calibration"), "{message}");
        let config = PruneConfig { method: Some(Method::Magnitude), repair: Repair::Scale, ..of() };
        assert!(config.calibration().unwrap_err().to_string().contains("repair"));
        let config = PruneConfig { method: Some(Method::Random), ..of() };
        assert_eq!(config.calibration().unwrap(), None);
        assert!((of().sparsity() - 0.5).abs() < 1e-9);
    }
}
