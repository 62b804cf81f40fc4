//! Names of the ways in which byte-level tokenizers split texts into words (`tokenizer.ggml.pre`).

use serde_json::Value;

/// The name of the rule of `pre_tokenizer`; `None` if llama.cpp has none.
pub(super) fn name(pre_tokenizer: &Value) -> Option<&'static str> {
    let is_gpt2 = |part: &Value| part["type"] == "ByteLevel" && part["use_regex"] != false;
    let is_digits = |part: &Value| part["type"] == "Digits" && part["individual_digits"] == true;
    match pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) {
        None | Some([]) => is_gpt2(pre_tokenizer).then_some("gpt-2"),
        Some([part]) => is_gpt2(part).then_some("gpt-2"),
        Some([digits, rest]) => (is_digits(digits) && is_gpt2(rest)).then_some("smollm"),
        Some(_) => None,
    }
}
