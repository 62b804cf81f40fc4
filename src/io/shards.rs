//! The weight files of a checkpoint: a single one, or shards, with or without an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::summary::summarize;
use crate::{Error, Result, files as reading};

/// Name of a checkpoint of a single file.
pub const FILE: &str = "model.safetensors";

/// The same of a folder in the format of `open_clip`.
pub const OPEN_CLIP_FILE: &str = "open_clip_model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Largest number of shards that a file name may claim; real checkpoints have a few hundred.
const MAX_SHARDS: usize = 1 << 16;

/// Returns the sorted paths of the weight files of `folder`: `model.safetensors`; else the shards that the index
/// names; else, as in mlx-lm, the shards that are there, if they are complete.
///
/// # Errors
/// A folder without weights, a broken index, or missing shards, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(FILE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    let indexed = index.exists().then(|| read_index(&index)).transpose()?;
    let stored = stored(folder)?;
    if let Some(indexed) = &indexed
        && indexed.keys().all(|name| stored.contains(name))
    {
        return Ok(indexed.keys().map(|name| folder.join(name)).collect());
    }
    let sets = shard_sets(&stored);
    let mut complete = sets.iter().filter(|(set, numbers)| numbers.len() == set.count);
    match (complete.next(), complete.next()) {
        (Some((set, _)), None) => {
            Ok((1..=set.count).map(|number| folder.join(set.file_name(number))).collect())
        }
        (Some((first, _)), Some((second, _))) => Err(Error::ModelLoading(format!(
            "{} has two complete checkpoints, \"{}\" and \"{}\": remove the shards of one of them",
            folder.display(),
            first.file_name(1),
            second.file_name(1)
        ))),
        (None, _) => Err(Error::ModelLoading(incomplete(folder, indexed.as_ref(), &stored, &sets))),
    }
}

/// Returns the weight file of a `folder` in the format of [`open_clip`](https://github.com/mlfoundations/open_clip).
///
/// # Errors
/// No safetensors file.
pub fn open_clip_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = [OPEN_CLIP_FILE, FILE].iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.map(|path| vec![path]).ok_or_else(|| {
        Error::ModelLoading(format!(
            "{} has no {OPEN_CLIP_FILE}; a .bin or .pt file is a program, which is not run: load it with open_clip and \
             save its state_dict() with safetensors",
            folder.display()
        ))
    })
}

/// Says which files `folder` lacks.
fn incomplete(
    folder: &Path,
    indexed: Option<&BTreeMap<String, Vec<String>>>,
    stored: &BTreeSet<String>,
    sets: &BTreeMap<ShardSet, BTreeSet<usize>>,
) -> String {
    let folder = folder.display();
    if let Some(indexed) = indexed {
        let missing: Vec<String> = indexed
            .iter()
            .filter(|(name, _)| !stored.contains(*name))
            .map(|(name, tensors)| {
                let example = tensors.first().map_or("", String::as_str);
                format!("{name} ({} tensors, such as \"{example}\")", tensors.len())
            })
            .collect();
        let counts = format!("{} of the {} files that {INDEX} names", missing.len(), indexed.len());
        return format!("{folder} lacks {counts}: {}; download them again", summarize(&missing));
    }
    let lacking = |(set, numbers): (&ShardSet, &BTreeSet<usize>)| {
        let missing: Vec<String> =
            (1..=set.count).filter(|number| !numbers.contains(number)).map(|n| set.file_name(n)).collect();
        format!("{} of {} shards: {}", missing.len(), set.count, summarize(&missing))
    };
    match sets.iter().next() {
        Some(set) => format!("{folder} lacks {}; download them again", lacking(set)),
        None => format!(
            "{folder} has neither {FILE} nor {INDEX} nor shards like model-00001-of-00002.safetensors"
        ),
    }
}

/// Returns the file names in an index, with the tensors in each.
fn read_index(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", index.display()));
    let text =
        reading::read_to_string(index, reading::MAX_JSON).map_err(|error| broken(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| broken(format!("not valid JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| broken("no \"weight_map\"".into()))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A plain name: an index must not reach outside its folder.
            Some(name) if Path::new(name).file_name().is_some_and(|plain| plain == name) => {
                files.entry(name.to_owned()).or_default().push(tensor.clone());
            }
            _ => {
                return Err(broken(format!("\"{tensor}\" lies in {file}, which is not a file name")));
            }
        }
    }
    Ok(files)
}

/// Returns the names of all files in `folder`.
fn stored(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| folder.join(name).is_file())
        .collect())
}

/// Shards that were written together: `{stem}-00001-of-00005.safetensors` to `{stem}-00005-of-00005.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ShardSet {
    stem: String,
    count: usize,
    /// Digits of a number.
    width: usize,
}

impl ShardSet {
    fn file_name(&self, number: usize) -> String {
        let Self { stem, count, width } = self;
        format!("{stem}-{number:0width$}-of-{count:0width$}.safetensors")
    }

    /// Returns the set and number of the shard `name`.
    fn parse(name: &str) -> Option<(Self, usize)> {
        let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let set = Self { stem: stem.to_owned(), count: count.parse().ok()?, width: count.len() };
        let number = number.parse().ok()?;
        let fits = stem.starts_with("model") && (1..=set.count.min(MAX_SHARDS)).contains(&number);
        (fits && set.file_name(number) == name).then_some((set, number))
    }
}

/// Returns the sets of shards among the files `names`, each with the numbers that are there.
fn shard_sets(names: &BTreeSet<String>) -> BTreeMap<ShardSet, BTreeSet<usize>> {
    let mut sets: BTreeMap<ShardSet, BTreeSet<usize>> = BTreeMap::new();
    for (set, number) in names.iter().filter_map(|name| ShardSet::parse(name)) {
        sets.entry(set).or_default().insert(number);
    }
    sets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A folder with empty files of these names, and an index that maps tensors to files.
    fn folder(names: &[&str], index: Option<Value>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        if let Some(map) = index {
            fs::write(folder.path().join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
        }
        folder
    }

    fn found(names: &[&str], index: Option<Value>) -> std::result::Result<Vec<String>, String> {
        let folder = folder(names, index);
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files(folder.path())
            .map(|paths| paths.into_iter().map(name).collect())
            .map_err(|error| error.to_string())
    }

    const TWO: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

    #[test]
    fn complete_shards_need_no_index() {
        assert_eq!(found(&TWO, None).unwrap(), TWO);
        // Of an index that was written for other shards, nothing is believed.
        let stale = json!({"a": "model-00001-of-00003.safetensors", "b": TWO[0]});
        assert_eq!(found(&TWO, Some(stale)).unwrap(), TWO);
        // A complete set counts, not what a broken download left of another one.
        let with_rest = ["model-00007-of-00009.safetensors", TWO[0], TWO[1], "consolidated.safetensors"];
        assert_eq!(found(&with_rest, None).unwrap(), TWO);
        assert_eq!(found(&["model.safetensors", TWO[0]], None).unwrap(), ["model.safetensors"]);
    }

    #[test]
    fn an_index_may_name_any_files() {
        let names = ["weights-a.safetensors", "weights-b.safetensors"];
        let index = json!({"x": names[0], "y": names[1]});
        assert_eq!(found(&[names[0], names[1], TWO[0]], Some(index)).unwrap(), names);
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = found(&["model-00002-of-00003.safetensors"], None).unwrap_err();
        assert!(
            message.contains("lacks 2 of 3 shards: model-00001-of-00003.safetensors; model-00003"),
            "{message}"
        );
        let index = json!({"head": TWO[1], "tail": TWO[1], "body": TWO[0]});
        let message = found(&TWO[..1], Some(index)).unwrap_err();
        assert!(
            message.contains("lacks 1 of the 2 files") && message.contains("(2 tensors, such as \"head\")"),
            "{message}"
        );
        assert!(found(&["pytorch_model.bin"], None).unwrap_err().contains("has neither"));
        let more = [TWO[0], TWO[1], "model-00001-of-00001.safetensors"];
        assert!(found(&more, None).unwrap_err().contains("two complete checkpoints"));
        let outside = json!({"a": "../model.safetensors"});
        assert!(found(&[], Some(outside)).unwrap_err().contains("not a file name"));
    }

    #[test]
    fn a_name_cannot_claim_any_number_of_shards() {
        let message = found(&["model-1-of-99999999999.safetensors"], None).unwrap_err();
        assert!(message.contains("has neither"), "{message}");
    }
}
