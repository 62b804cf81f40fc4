//! PEFT's `adapter_config.json`: which layers are adapted, and how each is scaled.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::nulls::without_nulls;
use crate::adapters::patterns::{LayerPatterns, LayerSelection, Pattern};

/// Settings that low-rank matrices of linear layers cannot represent unless they are empty, with a remedy for
/// each.
const REFUSED: [(&str, &str); 13] = [
    ("trainable_token_indices", "merge the trained tokens into the model, or train without them"),
    ("target_parameters", "name linear layers in target_modules instead"),
    ("layer_replication", "merge the adapter with PEFT first"),
    ("lora_bias", "train without a bias in B"),
    ("alora_invocation_tokens", "activated LoRA is not supported"),
    ("use_qalora", "QA-LoRA is not supported"),
    ("use_bdlora", "merge the adapter with PEFT first"),
    ("arrow_config", "choose one of the adapters instead"),
    ("kasa_config", "merge the adapter with PEFT first"),
    ("monteclora_config", "merge the adapter with PEFT first"),
    ("megatron_config", "parallel layers are not supported"),
    ("velora_config", "train without it"),
    ("bias", "train with bias \"none\""),
];

/// `peft_type` of `AdaLoRA`.
const ADALORA: &str = "ADALORA";

/// Initializations that also change the frozen weights, so that the adapter alone is not the whole
/// difference.
const CHANGING_BASE: [&str; 5] = ["pissa", "corda", "olora", "loftq", "lora_ga"];

/// Fields of PEFT's `LoraConfig`, with its defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
struct File {
    base_model_name_or_path: Option<String>,
    lora_dropout: f32,
    r: u64,
    /// Initial rank of every layer, for `AdaLoRA`.
    init_r: u64,
    lora_alpha: f64,
    use_rslora: bool,
    use_dora: bool,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    target_modules: Option<OneOrMany<String>>,
    exclude_modules: Option<OneOrMany<String>>,
    layers_to_transform: Option<OneOrMany<usize>>,
    layers_pattern: Option<OneOrMany<String>>,
    modules_to_save: Option<OneOrMany<String>>,
    ensure_weight_tying: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn all(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            base_model_name_or_path: None,
            lora_dropout: 0.0,
            r: 8,
            init_r: 12,
            lora_alpha: 8.0,
            use_rslora: false,
            use_dora: false,
            rank_pattern: None,
            alpha_pattern: None,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            modules_to_save: None,
            ensure_weight_tying: false,
        }
    }
}

/// Validated configuration.
#[derive(Debug, Clone)]
pub(super) struct PeftConfig {
    pub(super) base_model: Option<String>,
    pub(super) dropout: f32,
    pub(super) use_dora: bool,
    /// Whether there are singular values between `A` and `B` ([AdaLoRA](https://arxiv.org/abs/2303.10512)).
    pub(super) is_adalora: bool,
    rank: u64,
    alpha: f64,
    use_rslora: bool,
    ranks: LayerPatterns<u64>,
    alphas: LayerPatterns<f64>,
    targets: LayerSelection,
    excluded: LayerSelection,
    blocks: Option<Blocks>,
    pub(super) saved: SavedModules,
}

/// Modules that are saved whole.
#[derive(Debug, Clone)]
pub(super) struct SavedModules {
    /// Trailing parts of their paths.
    pub(super) names: Vec<String>,
    /// Whether those that are tied to others replace them too.
    pub(super) ensure_weight_tying: bool,
}

/// `layers_to_transform`: block indices, and expressions that find the index in a key path.
#[derive(Debug, Clone)]
struct Blocks {
    numbers: Vec<usize>,
    expressions: Vec<Pattern>,
}

type Outcome<T> = std::result::Result<T, String>;

impl PeftConfig {
    /// Parses the configuration `json`.
    ///
    /// # Errors
    /// A setting that cannot be represented, by key.
    pub(super) fn parse(json: &Value) -> Outcome<Self> {
        refuse(json)?;
        let mut file: File =
            serde_path_to_error::deserialize(without_nulls(json)).map_err(|error| error.to_string())?;
        let is_adalora = json["peft_type"] == ADALORA;
        if is_adalora {
            // For AdaLoRA, the pattern repeats which ranks are left in the tensors.
            file.rank_pattern = None;
            file.r = file.init_r;
            if file.lora_alpha <= 0.0 {
                file.lora_alpha = file.init_r as f64;
            }
        }
        let rank = |key: &str, value: &Value| {
            value.as_u64().ok_or_else(|| format!("{key} is {value}, expected a whole number"))
        };
        let alpha = |key: &str, value: &Value| {
            value.as_f64().ok_or_else(|| format!("{key} is {value}, expected a number"))
        };
        let targets = match file.target_modules {
            None => LayerSelection::All,
            Some(OneOrMany::One(name)) if name.eq_ignore_ascii_case("all-linear") => LayerSelection::All,
            Some(targets) => names("target_modules", targets)?,
        };
        let excluded = match file.exclude_modules {
            None => LayerSelection::EndingWith(HashSet::new()),
            Some(excluded) => names("exclude_modules", excluded)?,
        };
        // PEFT applies it to lists only.
        let is_list = matches!(targets, LayerSelection::EndingWith(_));
        let blocks = blocks(file.layers_to_transform.filter(|_| is_list), file.layers_pattern)?;
        Ok(Self {
            base_model: file.base_model_name_or_path,
            dropout: file.lora_dropout,
            use_dora: file.use_dora,
            is_adalora,
            rank: file.r,
            alpha: file.lora_alpha,
            use_rslora: file.use_rslora,
            ranks: patterns("rank_pattern", file.rank_pattern, rank)?,
            alphas: patterns("alpha_pattern", file.alpha_pattern, alpha)?,
            targets,
            excluded,
            blocks,
            saved: SavedModules {
                names: file.modules_to_save.map(OneOrMany::all).unwrap_or_default(),
                ensure_weight_tying: file.ensure_weight_tying,
            },
        })
    }

    /// Returns `(rank, scale)` of the layer at `path`; for `AdaLoRA`, the initial rank.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub(super) fn shape(&self, path: &str) -> Outcome<(u64, f32)> {
        if self.is_adalora {
            // As in PEFT, which guards against division by zero.
            return Ok((self.rank, (self.alpha / (self.rank as f64 + 1e-5)) as f32));
        }
        let rank = self.ranks.get(path)?.unwrap_or(self.rank);
        let alpha = self.alphas.get(path)?.unwrap_or(self.alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }

    /// Whether PEFT would adapt the layer at `path`.
    ///
    /// # Errors
    /// A pattern that takes too many steps.
    pub(super) fn targets(&self, path: &str) -> Outcome<bool> {
        let in_blocks = self.blocks.as_ref().map_or(Ok(true), |blocks| blocks.contains(path))?;
        Ok(in_blocks && self.targets.contains(path)? && !self.excluded.contains(path)?)
    }
}

impl Blocks {
    fn contains(&self, path: &str) -> Outcome<bool> {
        for expression in &self.expressions {
            let groups = expression.captures(path)?;
            let block = groups.and_then(|groups| groups.name("block")?.as_str().parse::<usize>().ok());
            if let Some(block) = block {
                return Ok(self.numbers.contains(&block));
            }
        }
        Ok(false)
    }
}

/// Rejects settings that low-rank matrices of linear layers cannot represent.
fn refuse(json: &Value) -> Outcome<()> {
    match &json["peft_type"] {
        Value::String(kind) if kind == "LORA" || kind == ADALORA => {}
        other => {
            return Err(format!(
                "\"peft_type\" is {other}, expected \"LORA\", \"ADALORA\", \"PROMPT_TUNING\", \"P_TUNING\" or \"PREFIX_TUNING\""
            ));
        }
    }
    for (key, instead) in REFUSED {
        let value = &json[key];
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty() || (key == "bias" && text == "none"),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        if !empty {
            return Err(format!("\"{key}\" is {value}, which cannot be represented; {instead}"));
        }
    }
    match json["init_lora_weights"].as_str().map(str::to_lowercase) {
        Some(name) if CHANGING_BASE.iter().any(|prefix| name.starts_with(prefix)) => Err(format!(
            "\"init_lora_weights\" is \"{name}\", which changes the model itself; convert the adapter with PEFT's \
             save_pretrained(path_initial_model_for_weight_conversion=...) first"
        )),
        _ => Ok(()),
    }
}

fn names(key: &'static str, names: OneOrMany<String>) -> Outcome<LayerSelection> {
    Ok(match names {
        OneOrMany::One(pattern) => {
            LayerSelection::Matching(Pattern::compile(key, &format!("(?:{pattern})$"))?)
        }
        OneOrMany::Many(names) => LayerSelection::EndingWith(names.into_iter().collect()),
    })
}

fn patterns<T: Copy>(
    key: &'static str,
    entries: Option<Map<String, Value>>,
    number: impl Fn(&str, &Value) -> Outcome<T>,
) -> Outcome<LayerPatterns<T>> {
    let numbers = entries.unwrap_or_default().into_iter().map(|(pattern, value)| {
        let number = number(&format!("\"{key}\" for \"{pattern}\""), &value)?;
        Ok((pattern, number))
    });
    LayerPatterns::new(key, numbers.collect::<Outcome<Vec<_>>>()?)
}

fn blocks(numbers: Option<OneOrMany<usize>>, patterns: Option<OneOrMany<String>>) -> Outcome<Option<Blocks>> {
    const KEY: &str = "layers_pattern";
    let numbers = numbers.map(OneOrMany::all).unwrap_or_default();
    if numbers.is_empty() {
        return Ok(None);
    }
    let patterns = patterns.map(OneOrMany::all).unwrap_or_default();
    let expressions = if patterns.is_empty() {
        vec![Pattern::compile(KEY, r".*?\.[^.]*\.(?<block>\d+)\.")?]
    } else {
        let find =
            |pattern: &String| Pattern::compile(KEY, &format!(r"(?:|.*?\.)(?:{pattern})\.(?<block>\d+)\."));
        patterns.iter().map(find).collect::<Outcome<_>>()?
    };
    Ok(Some(Blocks { numbers, expressions }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(mut fields: Value) -> Result<PeftConfig, String> {
        fields.as_object_mut().unwrap().entry("peft_type").or_insert("LORA".into());
        PeftConfig::parse(&fields)
    }

    fn config(fields: Value) -> PeftConfig {
        parse(fields).unwrap()
    }

    const Q: &str = "model.layers.1.self_attn.q_proj";
    const EXPERT: &str = "model.layers.1.mlp.experts.7.up_proj";

    #[test]
    fn patterns_choose_rank_and_scale() {
        let config = config(json!({
            "r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 1, "layers.1.self_attn.(q|k)_proj": 2},
            "alpha_pattern": {"proj": 100, "self_attn.q_proj": 3.0},
        }));
        assert_eq!(config.shape(Q).unwrap(), (2, 1.5));
        assert_eq!(config.shape("model.layers.0.self_attn.q_proj").unwrap(), (4, 0.75));
        assert_eq!(config.shape(EXPERT).unwrap(), (4, 2.0));
    }

    #[test]
    fn the_root_of_the_rank_divides_with_rslora() {
        assert_eq!(
            config(json!({"r": 16, "lora_alpha": 8, "use_rslora": true})).shape(Q).unwrap(),
            (16, 2.0)
        );
    }

    #[test]
    fn singular_values_are_scaled_by_the_first_rank() {
        let fields = |alpha: i32| {
            json!({
                "peft_type": "ADALORA", "r": 8, "init_r": 4, "target_r": 2, "lora_alpha": alpha,
                "rank_pattern": {"model.layers.1.self_attn.q_proj.lora_E": [true, false, true, false]},
            })
        };
        let scale = |alpha| config(fields(alpha)).shape(Q).unwrap();
        assert_eq!(scale(8), (4, (8.0 / 4.00001) as f32));
        assert_eq!(scale(0), (4, (4.0 / 4.00001) as f32));
        assert!(config(fields(8)).is_adalora);
    }

    #[test]
    fn targets_are_named_in_three_ways() {
        let chooses = |fields| config(fields).targets(Q).unwrap();
        assert!(chooses(json!({"target_modules": "all-linear"})));
        assert!(chooses(json!({"target_modules": ["v_proj", "q_proj"]})));
        assert!(chooses(json!({"target_modules": [Q]})));
        assert!(!chooses(json!({"target_modules": ["proj", "layers.0.self_attn.q_proj"]})));
        assert!(chooses(json!({"target_modules": r".*\.(q|v)_proj"})));
        assert!(!chooses(json!({"target_modules": r".*\.layers"})));
        assert!(!chooses(json!({"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]})));
    }

    #[test]
    fn blocks_are_counted_where_the_first_number_stands() {
        let chooses = |fields: Value, path| config(fields).targets(path).unwrap();
        let blocks = |blocks: Value| json!({"target_modules": ["up_proj"], "layers_to_transform": blocks});
        assert!(chooses(blocks(json!(1)), EXPERT));
        assert!(!chooses(blocks(json!([0, 7])), EXPERT));
        let pattern = json!({
            "target_modules": ["up_proj"], "layers_to_transform": [7], "layers_pattern": "experts",
        });
        assert!(chooses(pattern, EXPERT));
    }

    #[test]
    fn what_cannot_be_represented_is_named() {
        let message = |fields: Value| parse(fields).unwrap_err();
        for (key, _) in REFUSED {
            assert!(message(json!({ key: ["x"] })).contains(key));
        }
        assert!(message(json!({"bias": "all"})).contains("bias"));
        assert!(message(json!({"init_lora_weights": "pissa_niter_4"})).contains("pissa_niter_4"));
        assert!(message(json!({"peft_type": "IA3"})).contains("IA3"));
        assert!(message(json!({"r": "many"})).contains('r'));
        let wrong = message(json!({"rank_pattern": {"(q_proj": 1}}));
        assert!(wrong.contains("rank_pattern") && wrong.contains("(q_proj"), "{wrong}");
        assert!(message(json!({"alpha_pattern": {"q_proj": "x"}})).contains("q_proj"));
    }
}
