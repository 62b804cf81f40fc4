//! CLIP's byte-pair encoding from `vocab.json` and `merges.txt`.

use std::path::Path;

use serde_json::{Value, json};

use super::super::files::{file_error, read_json};
use crate::{Result, files};

/// How CLIP cuts words.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Whether `folder` has both files.
pub(super) fn is_there(folder: &Path) -> bool {
    ["vocab.json", "merges.txt"].iter().all(|name| folder.join(name).is_file())
}

/// The `tokenizer.json` that the files of `folder` stand for.
///
/// # Errors
/// A file that cannot be read or is not valid, by name.
pub(super) fn tokenizer_json(folder: &Path) -> Result<String> {
    let path = folder.join("vocab.json");
    let vocab = read_json(&path)?;
    if !vocab.as_object().is_some_and(|tokens| tokens.values().all(Value::is_u64)) {
        return Err(file_error(&path, "expected an object of tokens with their ids"));
    }
    let path = folder.join("merges.txt");
    let text = files::read_to_string(&path, files::MAX_JSON).map_err(|error| file_error(&path, error))?;
    let merges: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let special = |content: &str| {
        let id = vocab.get(content)?;
        Some(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        }))
    };
    let added: Vec<Value> = ["<|startoftext|>", "<|endoftext|>"].into_iter().filter_map(special).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges,
        },
    });
    Ok(json.to_string())
}
