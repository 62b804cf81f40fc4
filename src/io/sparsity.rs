//! What pruning says about a model folder: which layers have zeros that are to stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result, files};

/// File name of the report of pruning in a model folder.
pub const REPORT: &str = "pruning.json";

/// Key paths of the layers of the model in `folder` that were pruned, weight by weight; none without a report.
///
/// # Errors
/// A report that cannot be read.
pub fn pruned_layers(folder: &Path) -> Result<BTreeSet<String>> {
    let path = folder.join(REPORT);
    if !path.is_file() {
        return Ok(BTreeSet::new());
    }
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let text = files::read_to_string(&path, files::MAX_JSON).map_err(|error| broken(error.to_string()))?;
    let report: Value =
        serde_json::from_str(&text).map_err(|error| broken(format!("not valid JSON: {error}")))?;
    let layers = report["report"]["layers"].as_array();
    let paths =
        layers.map(|layers| layers.iter().map(|layer| layer["path"].as_str().map(str::to_owned)).collect());
    paths.flatten().ok_or_else(|| {
        broken(
            "expected the report of pruning; remove the file to change all weights of the model".to_owned(),
        )
    })
}

/// Copies the report of pruning from the folder `source` to the folder `target`, if there is one.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn copy_report(source: &Path, target: &Path) -> Result<()> {
    let (from, to) = (source.join(REPORT), target.join(REPORT));
    if from.is_file() {
        fs::copy(&from, &to).map_err(Error::io("copy", &to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_those_of_the_report() {
        let folder = tempfile::tempdir().unwrap();
        assert!(pruned_layers(folder.path()).unwrap().is_empty());
        let write = |text: &str| fs::write(folder.path().join(REPORT), text).unwrap();
        write(r#"{"config": {}, "report": {"layers": [{"path": "a.b"}, {"path": "c"}]}}"#);
        assert_eq!(pruned_layers(folder.path()).unwrap().into_iter().collect::<Vec<_>>(), ["a.b", "c"]);
        for text in ["{", "{}", r#"{"report": {"layers": [{}]}}"#, "[]"] {
            write(text);
            let message = pruned_layers(folder.path()).unwrap_err().to_string();
            assert!(message.contains(REPORT), "{message}");
        }
    }
}
