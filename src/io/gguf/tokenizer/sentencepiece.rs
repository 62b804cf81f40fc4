//! The BPE of [`SentencePiece`](https://arxiv.org/abs/1808.06226): whichever two neighbours make the token of the highest
//! score are joined first. That is a list of merges, in the order of the scores of what they make.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::specials::Specials;
use super::{NORMAL, Vocabulary, missing};
use crate::{Error, Result};

/// Longest token in characters that is cut into pairs; real ones have some fifty.
const MAX_CHARACTERS: usize = 256;

/// The `tokenizer.json` of `vocabulary`, and whether BOS is put before a text by default.
///
/// # Errors
/// Scores that are missing.
pub(super) fn pipeline(vocabulary: &Vocabulary, specials: &Specials) -> Result<(Value, bool)> {
    let metadata = vocabulary.metadata;
    let key = "tokenizer.ggml.scores";
    let scores = metadata.floats(key)?.ok_or_else(|| missing(key))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(Error::ModelLoading(format!(
            "\"{key}\" has {} entries for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        )));
    }
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizer = replace(" ", "▁");
    if metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        normalizer = json!({"type": "Sequence", "normalizers": [prepend, normalizer]});
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let tokenizer = json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": specials.text("unk_token"),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary.ids(),
            "merges": merges(vocabulary, scores),
        },
    });
    Ok((tokenizer, true))
}

/// Pairs of tokens that make a token, the highest score first.
fn merges(vocabulary: &Vocabulary, scores: &[f32]) -> Vec<Value> {
    let tokens = || vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
    let ids: HashMap<&str, usize> =
        tokens().filter(|(_, (_, kind))| **kind == NORMAL).map(|(id, (token, _))| (token, id)).collect();
    let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
    for (id, (token, kind)) in tokens() {
        if *kind != NORMAL || token.chars().count() > MAX_CHARACTERS {
            continue;
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        pairs.extend(known.map(|(left, right)| (scores[id], left, right)));
    }
    // Of one score, those with the longest left part, as transformers orders them.
    let length = |id: usize| vocabulary.tokens.get(id).map_or(0, |token| token.chars().count());
    pairs.sort_by(|a, b| {
        let lengths = |&(_, left, right): &(f32, usize, usize)| (length(left), length(right));
        b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a)))
    });
    let text = |id: usize| vocabulary.tokens.get(id).unwrap_or_default();
    pairs.into_iter().map(|(_, left, right)| json!([text(left), text(right)])).collect()
}
