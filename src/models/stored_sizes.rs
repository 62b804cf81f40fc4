//! Checks a configuration against the sizes of the stored tensors before a model is built: what `config.json` claims
//! costs nothing to write, and a model of a hundred thousand experts takes long to build.

use std::path::Path;

use serde_json::Value;

use crate::io::shards;
use crate::io::tensors::Reader;
use crate::{Error, Result};

/// Architectures with experts.
const WITH_EXPERTS: [&str; 4] = ["gpt_oss", "lfm2_moe", "mixtral", "qwen3_moe"];

/// Keys of the number of experts.
const KEYS: [&str; 2] = ["num_experts", "num_local_experts"];

/// Checks that the weight files of `folder` have as many experts as `config` says. `name_of` is that of
/// [`weights::load`](crate::io::weights::load).
///
/// # Errors
/// More experts than the tensors of any layer, by key; weight files that cannot be read.
pub(super) fn check(config: &Value, folder: &Path, name_of: fn(&str) -> Option<String>) -> Result<()> {
    if !WITH_EXPERTS.iter().any(|name| config["model_type"] == **name) {
        return Ok(());
    }
    let Some((key, claimed)) = KEYS.iter().find_map(|key| Some((key, config[*key].as_u64()?))) else {
        return Ok(());
    };
    let mut stored = 0;
    for path in shards::files(folder)? {
        let reader = Reader::open(&path)?;
        let experts = |(name, shape): (&str, &[usize])| experts(&name_of(name)?, shape);
        stored = reader.shapes().filter_map(experts).fold(stored, usize::max);
    }
    if claimed > stored as u64 {
        return Err(Error::ModelLoading(format!(
            "{}: \"{key}\" is {claimed}, but the weights have {stored} experts",
            folder.join("config.json").display()
        )));
    }
    Ok(())
}

/// The number of experts that a tensor tells of: `a.experts.3.w1.weight` of 4, a stack of its first dimension.
fn experts(name: &str, shape: &[usize]) -> Option<usize> {
    let (_, after) = name.split_once(".experts.").or_else(|| name.split_once(".switch_mlp."))?;
    match after.split('.').next()?.parse::<usize>() {
        Ok(index) => index.checked_add(1),
        Err(_) => shape.first().copied(),
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;
    use serde_json::json;

    use super::*;
    use crate::io::tensors;

    #[test]
    fn experts_are_counted_in_every_layout() {
        for (name, shape, count) in [
            ("model.layers.0.mlp.experts.3.gate_proj.weight", [8, 8], Some(4)),
            ("model.layers.0.mlp.experts.gate_up_proj_blocks", [32, 8], Some(32)),
            ("model.layers.0.mlp.switch_mlp.up_proj.scales", [16, 8], Some(16)),
            ("model.layers.0.mlp.gate.weight", [64, 8], None),
        ] {
            assert_eq!(experts(name, &shape), count, "{name}");
        }
    }

    #[test]
    fn a_number_that_the_weights_do_not_have_is_refused_before_a_model_is_built() {
        let folder = tempfile::tempdir().unwrap();
        let name = "model.layers.0.mlp.experts.3.up_proj.weight".to_owned();
        let weights = [(name, Array::zeros::<f32>(&[2, 2]).unwrap())].into();
        tensors::write(&folder.path().join(shards::FILE), &weights, &[]).unwrap();
        let check = |config| check(&config, folder.path(), |name| Some(name.to_owned()));
        let error = check(json!({"model_type": "qwen3_moe", "num_experts": 16_384})).unwrap_err().to_string();
        assert!(
            error.ends_with("config.json: \"num_experts\" is 16384, but the weights have 4 experts"),
            "{error}"
        );
        assert!(check(json!({"model_type": "qwen3_moe", "num_experts": 4})).is_ok());
        assert!(check(json!({"model_type": "llama", "num_experts": 9})).is_ok());
    }
}
