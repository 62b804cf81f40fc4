//! A tokenizer for tests with readable ids: byte b is token b.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Tokenizer;
use super::chat::recorded;
use crate::Result;

pub(super) const SPACE_A: u32 = 256;
pub(super) const BOS: u32 = 257;
pub(super) const EOS: u32 = 258;
pub(super) const TURN: u32 = 259;
pub(super) const END: u32 = 260;
pub(super) const PAD: u32 = 261;

pub(super) const CHATML: &str = "{% for message in messages %}\
    {{'<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n'}}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}";

/// The character byte-level BPE writes for a byte (GPT-2's `bytes_to_unicode`).
fn shown(byte: u8) -> char {
    let is_printed = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printed(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !is_printed(b)).count();
    char::from_u32(256 + u32::try_from(before).unwrap()).unwrap()
}

/// A special token of `tokenizer.json`.
pub(super) fn added_token(id: &Value, content: &str) -> Value {
    json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false})
}

/// `tokenizer.json` with BOS put before a text; the only merge is `" A"`.
pub(super) fn tokenizer_json() -> Value {
    let mut vocab: serde_json::Map<_, _> =
        (0..=255).map(|byte| (shown(byte).to_string(), json!(byte))).collect();
    vocab.insert("ĠA".to_owned(), json!(SPACE_A));
    let specials = [(BOS, "<s>"), (EOS, "</s>"), (TURN, "<|turn|>"), (END, "<|end|>"), (PAD, "<pad>")];
    let added: Vec<_> = specials.iter().map(|(id, content)| added_token(&json!(id), content)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": ["Ġ A"]}
    })
}

/// `tokenizer.json` of Llama 2 in small: a space before every text, words of one or two letters, bytes for the rest.
pub(super) fn sentencepiece_json() -> Value {
    let letters = (b'!'..=b'~').map(|letter| char::from(letter).to_string());
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let tokens = tokens
        .chain((0..=255).map(|byte| format!("<0x{byte:02X}>")))
        .chain(["▁".to_owned()])
        .chain(letters)
        .chain(["▁d", "de", "▁de", "ef"].map(str::to_owned));
    let vocab: serde_json::Map<_, _> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let mut tokenizer = tokenizer_json();
    tokenizer["added_tokens"] =
        ["<unk>", "<s>", "</s>"].map(|token| added_token(&vocab[token], token)).into();
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    tokenizer["pre_tokenizer"] = Value::Null;
    tokenizer["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([1]);
    tokenizer["model"] = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>",
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
        "vocab": vocab, "merges": ["▁ d", "d e", "▁d e", "e f"]});
    tokenizer
}

/// A tokenizer of the class `LlamaTokenizer`, with `settings` in its configuration.
pub(super) fn llama(settings: &Value) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer.json", &sentencepiece_json());
    let mut config = json!({"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"});
    config.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap_or_default());
    write(folder.path(), "tokenizer_config.json", &config);
    load(folder.path()).unwrap()
}

pub(super) fn write(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), value.to_string()).unwrap();
}

/// A folder with the tokenizer and its configuration.
pub(super) fn folder(chat_template: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer.json", &tokenizer_json());
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": chat_template});
    write(folder.path(), "tokenizer_config.json", &config);
    folder
}

pub(crate) fn tokenizer(chat_template: Option<&str>) -> Tokenizer {
    load(folder(chat_template).path()).unwrap()
}

pub(super) fn load(folder: &Path) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder, &recorded::renderer())
}
