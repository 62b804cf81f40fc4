//! A packed row is its samples one by one, in the logits and gradients of every family.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use efficientai_toolkit::data::{Sample, collate, pack};
use efficientai_toolkit::io::tensors::Tensors;
use efficientai_toolkit::kernels;
use efficientai_toolkit::lora::TrainingConfig;
use efficientai_toolkit::lora::attach::attach;
use efficientai_toolkit::models::{self, Checkpointing, Model};
use efficientai_toolkit::nn::Segments;
use efficientai_toolkit::train::objective::{Objective, Scored};
use efficientai_toolkit::train::step;
use mlx_rs::module::ModuleParameters as _;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype, random};

/// The longest beyond the windows of the fixtures; all on one side of where `LongRoPE` turns otherwise.
const LENGTHS: [usize; 4] = [17, 9, 12, 8];

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/models");
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 20, "the fixtures were not found");
    folders
}

fn samples(vocab: i32) -> Vec<Sample> {
    let ids = |length: usize| (0..length).map(|i| ((i * 7 + length * 3) as u32) % vocab as u32).collect();
    LENGTHS.iter().map(|&length| Sample::new(ids(length), |i| i >= length / 3)).collect()
}

/// With adapters that do something, all in float32.
fn adapted(folder: &Path) -> Box<dyn Model> {
    let mut model = models::load(folder, Some(Dtype::Float32), None).unwrap();
    let config = TrainingConfig { seed: 3, ..TrainingConfig::default() };
    attach(model.as_mut(), &config).unwrap();
    let shapes: BTreeMap<String, Vec<i32>> =
        model.parameters().flatten().iter().map(|(name, x)| (name.to_string(), x.shape().to_vec())).collect();
    let mut values = Tensors::new();
    for (seed, (name, shape)) in shapes.into_iter().filter(|(name, _)| name.ends_with("lora_b")).enumerate() {
        let key = random::key(seed as u64).unwrap();
        values.insert(name, random::normal::<f32>(&shape, 0.0, 0.1, &key).unwrap());
    }
    assert!(!values.is_empty());
    step::set_parameters(model.as_mut(), &values).unwrap();
    model
}

fn largest(x: &Array) -> f32 {
    let largest = x.abs().unwrap().max(None).unwrap();
    kernels::eval([&largest]).unwrap();
    largest.item_exact::<f32>()
}

fn check(name: &str, what: &str, packed: &Array, alone: &Array) {
    let distance = largest(&packed.subtract(alone).unwrap());
    let size = largest(alone);
    assert!(distance <= 1e-5 * size.max(1.0), "{name}, {what}: {distance} of {size}");
}

#[test]
fn logits_are_those_of_each_sample_alone() {
    for folder in fixtures() {
        let model = adapted(&folder);
        let samples = samples(model.vocab_size());
        let rows = pack(&samples, 26);
        let batch = collate(&rows.iter().collect::<Vec<_>>(), 26, 0);
        let shape = [batch.rows as i32, batch.time as i32];
        assert_eq!(shape, [2, 25]);
        let segments = Segments::new(batch.starts.as_ref().unwrap(), shape[0], shape[1]).unwrap();
        let ids = Array::from_slice(&batch.ids, &shape);
        let packed = model.logits(&model.hidden_segmented(&ids, &segments).unwrap()).unwrap();
        // Best fit decreasing puts the longest with 9, and 12 with 8.
        for (row, begin, sample) in [(0, 0, 0), (0, 17, 1), (1, 0, 2), (1, 12, 3)] {
            let ids: Vec<i32> = samples[sample].ids.iter().map(|&id| id as i32).collect();
            let len = ids.len() as i32 - 1;
            let alone = model.forward(&Array::from_slice(&ids[..len as usize], &[1, len]), None).unwrap();
            let found = packed.try_index((row..row + 1, begin..begin + len)).unwrap();
            check(&folder.display().to_string(), "logits", &found, &alone);
        }
    }
}

#[test]
fn gradients_are_the_sum_of_those_of_each_sample() {
    for folder in fixtures() {
        let mut model = adapted(&folder);
        let model = model.as_mut();
        let samples = samples(model.vocab_size());
        let all = model.parameters().flatten();
        let trained = all.iter().filter(|(_, x)| x.dtype() == Dtype::Float32);
        let mut names: Vec<String> = trained.map(|(name, _)| name.to_string()).collect();
        drop(all);
        names.sort();
        let parameters = step::parameters(model, &names).unwrap();
        let rows = pack(&samples, 26);
        let batch = collate(&rows.iter().collect::<Vec<_>>(), 26, 0);
        let objective = Objective::Sft;
        let totals = objective.totals([&batch]);
        let (Scored { loss, .. }, packed) =
            step::gradients(model, &parameters, &objective, &batch, totals, None).unwrap();
        let (mut alone, mut losses) = (None, Vec::new());
        for sample in &samples {
            let batch = collate(&[sample], 26, 0);
            let (scored, gradients) =
                step::gradients(model, &parameters, &objective, &batch, totals, None).unwrap();
            losses.push(scored.loss);
            alone = Some(step::accumulate(alone, gradients).unwrap());
        }
        let name = folder.display().to_string();
        let sum = losses.iter().skip(1).fold(losses[0].clone(), |sum, loss| sum.add(loss).unwrap());
        check(&name, "loss", &loss, &sum);
        model.set_checkpointing(Some(Checkpointing { every: 1, trained: names.iter().cloned().collect() }));
        let (_, recomputed) = step::gradients(model, &parameters, &objective, &batch, totals, None).unwrap();
        for (key, gradient) in alone.unwrap() {
            check(&name, &key, &packed[&key], &gradient);
            check(&name, &format!("{key}, recomputed"), &recomputed[&key], &packed[&key]);
        }
    }
}
