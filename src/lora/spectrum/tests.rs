//! Beside the gradient itself: full fine-tuning has it.

use std::collections::BTreeMap;

use mlx_rs::ops::indexing::IndexOp as _;
use serde_json::json;

use super::*;
use crate::data::{Sample, collate};
use crate::models;
use crate::progress::Silent;

const SEED: u64 = 3;

/// Two blocks with random weights.
fn model() -> Box<Model> {
    let config = json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "tie_word_embeddings": false,
    });
    let mut model = models::create(&config).unwrap();
    models::initialize(model.as_mut(), 0.3, SEED).unwrap();
    model
}

/// Batches of two rows with `length` tokens each.
fn batches(count: u32, length: u32) -> Vec<Batch> {
    let sample =
        |row: u32| Sample::new((0..length).map(|i| (7 * row + i * i * (row + 3)) % 40).collect(), |_| true);
    let pair = |i: u32| collate(&[&sample(2 * i), &sample(2 * i + 1)], 64, 0);
    (0..count).map(pair).collect()
}

/// Singular values of the gradients of all matrices, from these themselves.
fn exact(model: &mut Model, batches: &[Batch]) -> BTreeMap<String, Vec<f64>> {
    let mut names = Vec::new();
    model
        .visit_linears(&mut |path, _| {
            names.push(format!("{path}.weight"));
            Ok(())
        })
        .unwrap();
    let grads = mean_gradient(model, &names, batches, &mut Silent).unwrap();
    let values = |(name, grad): (String, Array)| {
        let [_, sigma, _] = pissa::thin_svd(&grad).unwrap();
        let sigma = sigma.index(..);
        kernels::eval([&sigma]).unwrap();
        let sigma: Vec<f64> = sigma.as_slice::<f32>().iter().map(|&x| x.into()).collect();
        (name.trim_end_matches(".weight").to_owned(), sigma)
    };
    grads.into_iter().map(values).collect()
}

fn sketched(model: &mut Model, batches: &[Batch], width: u32) -> Vec<Spectrum> {
    let config = TrainingConfig { seed: SEED, ..TrainingConfig::default() };
    gradient_spectra(model, batches, &config, width, &mut Silent).unwrap()
}

#[test]
fn a_sketch_of_full_width_is_exact() {
    let (mut model, batches) = (model(), batches(3, 20));
    let exact = exact(model.as_mut(), &batches);
    let found = sketched(model.as_mut(), &batches, 64);
    assert_eq!(found.len(), 14);
    for spectrum in found {
        let want = &exact[&spectrum.path];
        assert_eq!(spectrum.singular_values.len(), want.len(), "{}", spectrum.path);
        for (got, want) in spectrum.singular_values.iter().zip(want) {
            assert!((got - want).abs() < 1e-4 * exact[&spectrum.path][0], "{}: {got} {want}", spectrum.path);
        }
    }
    assert!(attach::parameter_names(model.as_ref()).is_empty());
}

#[test]
fn a_narrow_sketch_finds_the_first_values_and_none_too_large() {
    let (mut model, batches) = (model(), batches(3, 20));
    let exact = exact(model.as_mut(), &batches);
    for spectrum in sketched(model.as_mut(), &batches, 6) {
        let want = &exact[&spectrum.path];
        assert_eq!(spectrum.singular_values.len(), 6);
        for (got, want) in spectrum.singular_values.iter().zip(want) {
            assert!(*got < want * 1.0001, "{}: {got} {want}", spectrum.path);
        }
        let share = spectrum.singular_values[0] / want[0];
        assert!(share > 0.85, "{}: {share}", spectrum.path);
    }
}

#[test]
fn a_gradient_of_low_rank_is_recovered() {
    // Two rows of two tokens are two positions, so no matrix has a gradient of more than rank 2.
    let (mut model, batches) = (model(), batches(1, 2));
    let exact = exact(model.as_mut(), &batches);
    for spectrum in sketched(model.as_mut(), &batches, 6) {
        let want = &exact[&spectrum.path];
        let first = want[0].max(1e-6);
        for (got, want) in spectrum.singular_values.iter().zip(want) {
            assert!((got - want).abs() < 1e-4 * first, "{}: {got} {want}", spectrum.path);
        }
        assert!(spectrum.singular_values[2] < 1e-4 * first, "{}", spectrum.path);
        assert!(spectrum.effective_rank < 2.01 && spectrum.stable_rank < 2.01);
    }
}

#[test]
fn ranks_of_known_spectra() {
    let spectrum = |sigma: &[f64]| Spectrum::new("x".into(), (4, 4), sigma.to_vec());
    let flat = spectrum(&[2.0, 2.0, 2.0]);
    assert!((flat.energy - 12.0).abs() < 1e-12 && (flat.stable_rank - 3.0).abs() < 1e-12);
    assert!((flat.effective_rank - 3.0).abs() < 1e-12);
    let steep = spectrum(&[2.0, 2.0, 0.0]);
    assert!((steep.stable_rank - 2.0).abs() < 1e-12 && (steep.effective_rank - 2.0).abs() < 1e-12);
    assert!(spectrum(&[0.0, 0.0]).effective_rank.abs() < 1e-12);
}

#[test]
fn layers_that_are_not_there_are_named() {
    let config = TrainingConfig { target_modules: Some(vec!["w_proj".into()]), ..TrainingConfig::default() };
    let error = gradient_spectra(model().as_mut(), &batches(1, 4), &config, 4, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("target_modules names \"w_proj\""), "{error}");
}
