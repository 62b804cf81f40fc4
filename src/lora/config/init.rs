//! Initial values of adapters and virtual tokens.

use serde::{Deserialize, Serialize};

use crate::adapters::pissa::SvdMethod;

/// Maximum number of power iterations in `pissa_niter_N`; each is two products with every matrix.
const MAX_POWER_ITERATIONS: u32 = 1024;

/// Initialization of low-rank adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LoraInit {
    /// `A` random and `B` zero: `"default"`.
    #[default]
    Default,
    /// Principal singular vectors of the weight: `"pissa"`, or `"pissa_niter_N"`, which is faster and approximate.
    Pissa(SvdMethod),
}

impl TryFrom<String> for LoraInit {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        let iterations =
            |digits: &str| digits.parse().ok().filter(|n| (1..=MAX_POWER_ITERATIONS).contains(n));
        match name.as_str() {
            "default" => Ok(Self::Default),
            "pissa" => Ok(Self::Pissa(SvdMethod::Exact)),
            other => match other.strip_prefix("pissa_niter_").and_then(iterations) {
                Some(n) => Ok(Self::Pissa(SvdMethod::Randomized(n))),
                None => Err(format!(
                    "lora_init is \"{name}\", expected \"default\", \"pissa\" or \"pissa_niter_N\" with N from 1 to \
                     {MAX_POWER_ITERATIONS}"
                )),
            },
        }
    }
}

impl From<LoraInit> for String {
    fn from(init: LoraInit) -> Self {
        match init {
            LoraInit::Default => "default".into(),
            LoraInit::Pissa(SvdMethod::Exact) => "pissa".into(),
            LoraInit::Pissa(SvdMethod::Randomized(n)) => format!("pissa_niter_{n}"),
        }
    }
}

/// Initialization of the virtual tokens of prompt tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// `N(0, 1)`
    #[default]
    Random,
    /// Embeddings of a text.
    Text,
    /// Embeddings of random tokens.
    SampleVocab,
}
