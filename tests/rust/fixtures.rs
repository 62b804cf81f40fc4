//! Small models of every family.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use efficientai_toolkit::adapters::attach;
use efficientai_toolkit::kernels;
use efficientai_toolkit::lora::{Method, TrainingConfig};
use efficientai_toolkit::models::{self, Model};
use efficientai_toolkit::params::{self, Tensors};
use mlx_rs::{Array, Dtype, random};

/// Their folders.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/models");
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 20, "the fixtures were not found");
    folders
}

/// With adapters that do something, all in float32.
pub(crate) fn adapted(folder: &Path) -> Box<Model> {
    adapted_by(Method::Lora, folder)
}

/// The same by another method that has such adapters.
pub(crate) fn adapted_by(method: Method, folder: &Path) -> Box<Model> {
    let mut model = models::load(folder, Some(Dtype::Float32), None).unwrap();
    let config = TrainingConfig { method, seed: 3, ..TrainingConfig::default() };
    attach(model.as_mut(), &config.adapter_settings()).unwrap();
    let shapes: BTreeMap<String, Vec<i32>> =
        model.parameters().flatten().iter().map(|(name, x)| (name.to_string(), x.shape().to_vec())).collect();
    let mut values = Tensors::new();
    for (seed, (name, shape)) in shapes.into_iter().filter(|(name, _)| name.ends_with("lora_b")).enumerate() {
        let key = random::key(seed as u64).unwrap();
        values.insert(name, random::normal::<f32>(&shape, 0.0, 0.1, &key).unwrap());
    }
    assert!(!values.is_empty());
    params::set_parameters(model.as_mut(), &values).unwrap();
    model
}

fn largest(x: &Array) -> f32 {
    let largest = x.abs().unwrap().max(None).unwrap();
    kernels::eval([&largest]).unwrap();
    largest.item_exact::<f32>()
}

/// Fails unless `a` and `b`, the `what` of the model called `name`, are as good as equal.
pub(crate) fn check(name: &str, what: &str, a: &Array, b: &Array) {
    let distance = largest(&a.subtract(b).unwrap());
    let size = largest(b);
    assert!(distance <= 1e-5 * size.max(1.0), "{name}, {what}: {distance} of {size}");
}
