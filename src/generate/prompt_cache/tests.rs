//! Tests of states in files, with small random models.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::Array;
use serde_json::{Value, json};

use super::entry::{Entry, Key, NewEntry};
use super::*;
use crate::data::fixture;
use crate::generate::{GenerateConfig, Scheduler, SchedulerConfig};
use crate::kernels::eval;
use crate::kernels::quantized::Accuracy;
use crate::models;

const BOUND: u64 = 64 << 20;

fn model_with(more: &Value) -> Box<Model> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 262, "tie_word_embeddings": true,
        "full_attn_idxs": [1], "block_multiple_of": 8, "sliding_window": 8, "head_dim": 16
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let mut model = models::create(&config).unwrap();
    models::initialize(model.as_mut(), 0.6, 1).unwrap();
    model
}

/// One process: what it answers, and how many tokens of each prompt were known.
fn answer(
    model: &Model,
    settings: &SchedulerConfig,
    fingerprint: u128,
    config: &GenerateConfig,
    prompts: &[Vec<u32>],
) -> Vec<(Vec<u32>, usize)> {
    let tokenizer = fixture::tokenizer(None);
    let mut scheduler = Scheduler::new(settings.clone(), Some(Accuracy::F32)).unwrap();
    scheduler.set_fingerprint(0, fingerprint);
    let mut found = Vec::new();
    for prompt in prompts {
        scheduler.add(model, &tokenizer, prompt.clone(), config.clone()).unwrap();
        let (mut tokens, mut cached) = (Vec::new(), 0);
        while scheduler.running() + scheduler.waiting() > 0 {
            for event in scheduler.step(model, None, &tokenizer) {
                assert!(event.error.is_none(), "{:?}", event.error);
                tokens.extend(event.tokens);
                cached = event.cached_tokens;
            }
        }
        found.push((tokens, cached));
    }
    scheduler.close();
    found
}

fn settings(folder: Option<&Path>) -> SchedulerConfig {
    SchedulerConfig {
        prompt_cache_dir: folder.map(Path::to_owned),
        prompt_cache_disk_bytes: BOUND,
        prefill_chunk: 100,
        ..Default::default()
    }
}

fn config(kv_bits: Option<usize>) -> GenerateConfig {
    GenerateConfig { max_tokens: 8, ignore_eos: true, kv_bits, kv_group_size: 32, ..Default::default() }
}

fn prompt(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|i| (i * 31 + i / 7 * seed + seed) % 250).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn another_process_goes_on_from_the_states_of_the_first() {
    let cases = [("llama", None), ("llama", Some(4)), ("llama", Some(8)), ("mistral", None), ("lfm2", None)];
    for (family, kv_bits) in cases {
        let (model, config) = (model_with(&json!({"model_type": family})), config(kv_bits));
        let folder = tempfile::tempdir().unwrap();
        let mut texts = vec![prompt(700, 1), prompt(50, 2)];
        let first = answer(model.as_ref(), &settings(Some(folder.path())), 7, &config, &texts);
        assert_eq!((first[0].1, first[1].1), (0, 0));
        for (text, (tokens, _)) in texts.iter_mut().zip(&first) {
            text.extend(tokens);
            text.extend([3, 4, 5]);
        }
        // Other endings, which the state must be cut for.
        texts.push([&texts[0][..698], &[9, 9]].concat());
        let expected = answer(model.as_ref(), &settings(None), 7, &config, &texts);
        let second = answer(model.as_ref(), &settings(Some(folder.path())), 7, &config, &texts);
        for (index, (expected, found)) in expected.iter().zip(&second).enumerate() {
            assert_eq!(found.0, expected.0, "{family} {kv_bits:?} {index}");
        }
        assert!(second[0].1 >= 700 && second[1].1 >= 50, "{family} {kv_bits:?}: {second:?}");
        assert_eq!(second[2].1 > 0, family != "lfm2", "{family} {kv_bits:?}: {}", second[2].1);
    }
}

#[test]
fn states_of_anything_else_are_not_used() {
    let model = model_with(&json!({}));
    let folder = tempfile::tempdir().unwrap();
    let texts = [prompt(90, 1), prompt(90, 1)];
    let ask = |model: &Model, fingerprint: u128, kv_bits: Option<usize>| {
        answer(model, &settings(Some(folder.path())), fingerprint, &config(kv_bits), &texts[..1])[0].1
    };
    assert_eq!(ask(model.as_ref(), 1, None), 0);
    assert_eq!(ask(model.as_ref(), 1, None), 89);
    assert_eq!(ask(model.as_ref(), 2, None), 0);
    assert_eq!(ask(model.as_ref(), 1, Some(8)), 0);
    assert_eq!(ask(model.as_ref(), 1, Some(4)), 0);
    assert_eq!(ask(model.as_ref(), 1, Some(4)), 89);
    // The outcome of the short text tells even what has the same number.
    assert_eq!(ask(model_with(&json!({"rms_norm_eps": 0.1})).as_ref(), 1, None), 0);
}

#[test]
fn damaged_files_are_removed_and_never_believed() {
    let (model, config) = (model_with(&json!({})), config(None));
    let folder = tempfile::tempdir().unwrap();
    let texts = [prompt(64, 1)];
    let expected = answer(model.as_ref(), &settings(Some(folder.path())), 1, &config, &texts);
    let [path] = &files(folder.path())[..] else { panic!("one file expected") };
    let good = fs::read(path).unwrap();
    let size = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize + 8;
    let mut damages: Vec<Vec<u8>> = Vec::new();
    for length in [0, 7, 8, size / 2, size, size + 1, good.len() - 1] {
        damages.push(good[..length].to_vec());
    }
    // Of the header each byte in turn, of the state some; more than the file holds.
    for at in (0..size).step_by(11).chain((size..good.len()).step_by(good.len() / 30)) {
        let mut damaged = good.clone();
        damaged[at] ^= 1 << (at % 7);
        damages.push(damaged);
    }
    damages.push([&good[..], &[0]].concat());
    damages.push([&u64::MAX.to_le_bytes()[..], &good[8..]].concat());
    let foreign = folder.path().join("notes.safetensors");
    fs::write(&foreign, "mine").unwrap();
    for (index, damaged) in damages.iter().enumerate() {
        fs::write(path, damaged).unwrap();
        let ask = || answer(model.as_ref(), &settings(Some(folder.path())), 1, &config, &texts).remove(0);
        let (tokens, cached) = ask();
        assert_eq!((tokens, cached), (expected[0].0.clone(), 0), "damage {index}");
        assert_eq!(ask().1, 63, "damage {index}: not written again");
    }
    assert_eq!(fs::read_to_string(foreign).unwrap(), "mine");
}

fn filled(model: &Model, length: i32) -> Cache {
    let mut cache = model.new_cache(length).unwrap();
    let ids = Array::from_slice(&vec![1_u32; length as usize], &[1, length]);
    let hidden = model.hidden(&ids, Some(&mut cache)).unwrap();
    eval(cache.arrays().chain([&hidden])).unwrap();
    cache
}

#[test]
fn a_state_with_a_right_checksum_must_still_be_one_of_the_model() {
    let (model, folder) = (model_with(&json!({})), tempfile::tempdir().unwrap());
    let like = filled(model.as_ref(), 16);
    let key = Key::new("key".into());
    let write = |cache: &Cache, count: u32| -> Entry {
        let new = NewEntry::new(folder.path(), &key, &prompt(count, 1), cache).unwrap().unwrap();
        new.write().unwrap();
        new.entry
    };
    let good = write(&filled(model.as_ref(), 40), 40);
    assert_eq!(good.read(&key, &like, 41, 0).unwrap().positions(), Some(40));
    let opened = Entry::open(&good.path, &key).unwrap();
    assert_eq!((opened.tokens, opened.shortest), (good.tokens.clone(), good.shortest));
    let refused = |entry: &Entry, why: &str| {
        let Err(error) = entry.read(&key, &like, 41, 0) else { panic!("{why}: accepted") };
        let error = error.to_string();
        assert!(error.contains(why) && error.contains(&*entry.path.to_string_lossy()), "{error}");
    };
    for more in [
        json!({"num_key_value_heads": 4}),
        json!({"head_dim": 8}),
        json!({"num_hidden_layers": 3}),
        json!({"model_type": "lfm2"}),
    ] {
        refused(&write(&filled(model_with(&more).as_ref(), 40), 40), "no state of the model");
    }
    refused(&write(&Cache::default(), 40), "no state of the model");
    // Fewer positions than tokens, and a state that would need more of them than it has.
    refused(&write(&filled(model.as_ref(), 39), 40), "no state of the model");
    let sliding = model_with(&json!({"model_type": "mistral"}));
    let mut dropped = filled(sliding.as_ref(), 600);
    sliding.hidden(&Array::from_slice(&[1], &[1, 1]), Some(&mut dropped)).unwrap();
    refused(&write(&dropped, 601), "no state of the model");
    let other = Key::new("other".into());
    assert!(Entry::open(&good.path, &other).unwrap_err().to_string().contains("something else"));
    write(&filled(model.as_ref(), 40), 40);
    let moved = folder.path().join("a.safetensors");
    fs::rename(&good.path, &moved).unwrap();
    assert!(Entry::open(&moved, &key).unwrap_err().to_string().contains("not those of its name"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", &good.path).unwrap();
        assert!(Entry::open(&good.path, &key).unwrap_err().to_string().contains("not a regular file"));
    }
}

#[test]
fn layouts_are_bounded_before_anything_is_allocated() {
    let like = filled(model_with(&json!({})).as_ref(), 16);
    let tensors = |layer: &Value| {
        let layout: crate::nn::CacheLayout =
            serde_json::from_value(json!({"layers": [layer, layer]})).unwrap();
        (layout.positions(), layout.tensors(&like).unwrap().is_some())
    };
    let kv = |exact: i64, quantized: i64, dropped: i64| {
        tensors(&json!({"kv": {"exact": exact, "quantized": quantized, "dropped": dropped}}))
    };
    assert_eq!(kv(40, 0, 0), (Some(40), true));
    let most = i64::from(i32::MAX);
    for (exact, quantized, dropped) in
        [(0, 0, 0), (-1, 0, 0), (40, 1, 0), (40, 0, 1), (40, -1, 0), (most, most, most)]
    {
        assert!(!kv(exact, quantized, dropped).1, "{exact} {quantized} {dropped}");
    }
    assert_eq!(kv(most, most, 1).0, None);
    assert!(!tensors(&json!("conv")).1);
}

#[test]
fn files_are_bounded_and_those_used_longest_ago_go_first() {
    let (model, config) = (model_with(&json!({})), config(None));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    answer(model.as_ref(), &settings(Some(path)), 1, &config, &[prompt(64, 1)]);
    let bytes = fs::metadata(&files(path)[0]).unwrap().len();
    let small = SchedulerConfig { prompt_cache_disk_bytes: bytes * 5 / 2, ..settings(Some(path)) };
    let ask = |seed: u32| answer(model.as_ref(), &small, 1, &config, &[prompt(64, seed)])[0].1;
    assert_eq!([ask(2), ask(1), ask(3)], [0, 63, 0]);
    assert_eq!(files(path).len(), 2);
    assert_eq!([ask(1), ask(2)], [63, 0]);
    // Too large for the folder.
    let tiny = SchedulerConfig { prompt_cache_disk_bytes: bytes / 2, ..settings(Some(path)) };
    answer(model.as_ref(), &tiny, 1, &config, &[prompt(64, 4)]);
    assert!(files(path).is_empty());
}

#[test]
fn a_longer_text_replaces_its_beginning() {
    let (model, config) = (model_with(&json!({})), config(None));
    let folder = tempfile::tempdir().unwrap();
    let ask = |text: &[u32]| {
        answer(model.as_ref(), &settings(Some(folder.path())), 1, &config, &[text.to_vec()]).remove(0)
    };
    let mut text = prompt(64, 1);
    let (tokens, _) = ask(&text);
    text.extend(tokens);
    // Not worth another file.
    assert_eq!(ask(&[&text[..], &[9; 8]].concat()).1, 71);
    let first = files(folder.path());
    text.extend(prompt(40, 2));
    assert_eq!(ask(&text).1, 71);
    let second = files(folder.path());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    assert_eq!([&text[..], &text[..70], &text[..40]].map(|text| ask(text).1), [111, 69, 39]);
}

#[test]
fn states_with_rotations_of_another_length_are_not_used() {
    let model = model_with(&json!({
        "max_position_embeddings": 512, "rope_scaling": {
            "type": "longrope", "original_max_position_embeddings": 64,
            "short_factor": vec![1.0; 8], "long_factor": vec![4.0; 8],
        },
    }));
    let text = prompt(120, 1);
    let texts = [text[..50].to_vec(), text.clone(), text[..50].to_vec()];
    let expected = answer(model.as_ref(), &settings(None), 1, &config(None), &texts);
    let memory = SchedulerConfig { prompt_cache_bytes: 1 << 20, ..settings(None) };
    let folder = tempfile::tempdir().unwrap();
    for settings in [memory, settings(Some(folder.path()))] {
        let found = answer(model.as_ref(), &settings, 1, &config(None), &texts);
        let tokens =
            |answers: &[(Vec<u32>, usize)]| -> Vec<_> { answers.iter().map(|one| one.0.clone()).collect() };
        assert_eq!(tokens(&found), tokens(&expected));
        assert_eq!(found[1].1, 0);
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = |settings: SchedulerConfig| {
        let Err(error) = Scheduler::new(settings, None) else { panic!("accepted") };
        error.to_string()
    };
    assert!(refused(settings(Some(&file))).contains("file"));
    let none = SchedulerConfig { prompt_cache_disk_bytes: 0, ..settings(Some(folder.path())) };
    assert_eq!(refused(none), "prompt_cache_disk_bytes is 0; it must be at least 1");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let new = folder.path().join("a/b");
        drop(Scheduler::new(settings(Some(&new)), None).unwrap());
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o077, 0);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&new, &link).unwrap();
        assert!(refused(settings(Some(&link))).contains("symbolic link"));
    }
}
