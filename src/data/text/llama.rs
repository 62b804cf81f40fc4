//! The class `LlamaTokenizer` of transformers 5, which replaces the normalizer, the pre-tokenizer and the decoder of
//! `tokenizer.json`: unless `legacy` is set, only the beginning of a text gets a space, not also what follows a special
//! token.

use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Families for which transformers ignores `tokenizer_class`.
const OTHER_CLASSES: [&str; 4] = ["mistral", "mixtral", "phi3", "qwen2"];

/// Whether transformers loads `tokenizer` as a `LlamaTokenizer`; `json` is its `tokenizer.json`, `config` its
/// `tokenizer_config.json` and `model` the `config.json`.
pub(super) fn is_llama(tokenizer: &Tokenizer, json: &str, config: &Value, model: &Value) -> bool {
    let class = config["tokenizer_class"].as_str().or_else(|| model["tokenizer_class"].as_str());
    let is_other = model["model_type"].as_str().is_some_and(|family| OTHER_CLASSES.contains(&family));
    matches!(class, Some("LlamaTokenizer" | "LlamaTokenizerFast"))
        && !is_other
        && !json.contains("\"ByteLevel\"")
        && matches!(tokenizer.get_model(), ModelWrapper::BPE(_))
}

/// Gives `tokenizer` the pipeline of a `LlamaTokenizer` with the settings `legacy` and `add_prefix_space` of `config`.
pub(super) fn set_pipeline(tokenizer: &mut Tokenizer, config: &Value) -> Result<(), tokenizers::Error> {
    let has_prefix_space = config["add_prefix_space"].as_bool().unwrap_or(true);
    let prepend_scheme = match (has_prefix_space, config["legacy"].as_bool().unwrap_or(false)) {
        (false, _) => "never",
        (true, false) => "first",
        (true, true) => "always",
    };
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme, "split": false}),
    )?;
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if has_prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let decoder: DecoderWrapper = serde_json::from_value(json!({"type": "Sequence", "decoders": decoders}))?;
    tokenizer.with_normalizer(None::<NormalizerWrapper>)?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(decoder));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::fixture;

    /// The expected tokens are those of transformers 5.23.
    #[test]
    fn settings_decide_where_a_space_is_put() {
        let all = [1, 259, 324, 2, 259, 325];
        let first = [1, 259, 324, 2, 325];
        for (settings, ids) in [
            (json!({}), &first[..]),
            (json!({"legacy": false, "tokenizer_class": "LlamaTokenizerFast"}), &first),
            (json!({"legacy": true}), &all),
            (json!({"add_prefix_space": false}), &[1, 324, 2, 325]),
            (json!({"tokenizer_class": "PreTrainedTokenizerFast"}), &all),
        ] {
            assert_eq!(fixture::llama(&settings).encode("a</s>b", true).unwrap(), ids, "{settings}");
        }
        let spaces = fixture::llama(&json!({"legacy": true})).encode("a</s> b", true).unwrap();
        assert_eq!(spaces, all, "a space that is there is not doubled");
        let decoded = |settings: Value| fixture::llama(&settings).decode(&[1, 259, 324], true).unwrap();
        assert_eq!([decoded(json!({})), decoded(json!({"add_prefix_space": false}))], ["a", " a"]);
    }

    #[test]
    fn other_families_and_tokenizers_keep_their_pipeline() {
        let class = json!({"tokenizer_class": "LlamaTokenizer"});
        let is_llama = |tokenizer: Value, config: &Value, model: Value| {
            let json = tokenizer.to_string();
            is_llama(&json.parse().unwrap(), &json, config, &model)
        };
        let sentencepiece = fixture::sentencepiece_json;
        assert!(is_llama(sentencepiece(), &class, json!({"model_type": "llama"})));
        assert!(is_llama(sentencepiece(), &Value::Null, class.clone()));
        assert!(!is_llama(sentencepiece(), &class, json!({"model_type": "mistral"})));
        assert!(!is_llama(sentencepiece(), &Value::Null, Value::Null));
        assert!(!is_llama(fixture::tokenizer_json(), &class, Value::Null));
    }
}
