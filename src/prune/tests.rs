//! Masks and repairs of one layer, against the code of the methods' authors and against dense solutions.

use std::path::Path;

use mlx_rs::Array;

use super::mask::apply;
use super::pattern::Pattern;
use super::reconstruction::{least_squares, scale_rows};
use super::sparsegpt::sparsegpt;
use super::wanda::wanda;
use crate::calibrate::{InverseFactor, SecondMoments};
use crate::io::tensors;
use crate::kernels;
use crate::params::Tensors;

const ROWS: usize = 64;
const COLUMNS: usize = 320;
const TOKENS: usize = 640;
const GROUPS: Pattern = Pattern::Groups { keep: 2, of: 4 };

fn noise(index: usize) -> f32 {
    ((index * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0
}

/// The weights, and the moments of the correlated inputs, of `tests/parity/pruning_reference.py`.
fn layer() -> (Vec<f32>, SecondMoments) {
    let weights = (0..ROWS * COLUMNS).map(|i| noise(i * 3 + 1).powi(3)).collect();
    let mut x = Vec::with_capacity(TOKENS * COLUMNS);
    for token in 0..TOKENS {
        for column in 0..COLUMNS {
            let scale = (1 + column % 5) as f32;
            x.push(scale * (noise(token * 31 + column / 8) + 0.5 * noise(token * COLUMNS + column)));
        }
    }
    let mut moments = SecondMoments::new(COLUMNS);
    moments.add(&Array::from_slice(&x, &[TOKENS as i32, COLUMNS as i32])).unwrap();
    (weights, moments)
}

fn fixture() -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/prune/masks.safetensors");
    tensors::read(&path).unwrap()
}

/// Whether each weight is zero in the authors' result.
fn zeros(fixture: &Tensors, name: &str) -> Vec<bool> {
    let packed = &fixture[name];
    kernels::eval([packed]).unwrap();
    packed
        .as_slice::<u8>()
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1))
        .collect()
}

/// Number of entries that differ.
fn differences(mask: &[bool], zeros: &[bool]) -> usize {
    assert_eq!(mask.len(), zeros.len());
    mask.iter().zip(zeros).filter(|(stays, zero)| stays == zero).count()
}

#[test]
fn masks_of_wanda_are_those_of_its_authors() {
    let ((weights, moments), fixture) = (layer(), fixture());
    for (pattern, name) in [(Pattern::Unstructured, "unstructured"), (GROUPS, "2:4")] {
        let mask = wanda(&weights, &moments, pattern, 0.5);
        // Scores that are equal but for rounding may come in either order.
        let different = differences(&mask, &zeros(&fixture, &format!("wanda.{name}.zeros")));
        assert!(different * 1000 <= mask.len(), "{name}: {different}");
    }
}

#[test]
fn masks_and_weights_of_sparsegpt_are_those_of_its_authors() {
    let ((weights, moments), fixture) = (layer(), fixture());
    for (pattern, name) in [(Pattern::Unstructured, "unstructured"), (GROUPS, "2:4")] {
        let mut pruned = weights.clone();
        let factor = InverseFactor::new(&moments, false, 0.01).unwrap();
        let mask = sparsegpt(&mut pruned, &factor, pattern, 0.5);
        assert!(pruned.iter().zip(&mask).all(|(weight, &stays)| stays || *weight == 0.0));
        let different = differences(&mask, &zeros(&fixture, &format!("sparsegpt.{name}.zeros")));
        assert!(different * 1000 <= mask.len(), "{name}: {different}");
        let sums = &fixture[&format!("sparsegpt.{name}.row_sums")];
        kernels::eval([sums]).unwrap();
        let sums = sums.as_slice::<f32>();
        let scale = sums.iter().map(|sum| sum.abs()).fold(0.0, f32::max);
        let zeros = zeros(&fixture, &format!("sparsegpt.{name}.zeros"));
        let masks = mask.chunks(COLUMNS).zip(zeros.chunks(COLUMNS));
        let rows = pruned
            .chunks(COLUMNS)
            .zip(sums)
            .zip(masks)
            .filter(|(_, (mask, zeros))| differences(mask, zeros) == 0);
        let mut equal = 0;
        for ((row, expected), _) in rows {
            let sum: f32 = row.iter().sum();
            assert!((sum - expected).abs() < 1e-3 * scale, "{name}: {sum} {expected}");
            equal += 1;
        }
        assert!(equal * 4 > ROWS * 3, "{name}: {equal}");
    }
}

fn error(weights: &[f32], pruned: &[f32], moments: &SecondMoments) -> f64 {
    let difference: Vec<f32> = weights.iter().zip(pruned).map(|(old, new)| old - new).collect();
    moments.squared_outputs(&difference)
}

#[test]
fn columns_of_large_activations_may_come_first() {
    let (weights, moments) = layer();
    let mut errors = [false, true].map(|act_order| {
        let mut pruned = weights.clone();
        let factor = InverseFactor::new(&moments, act_order, 0.01).unwrap();
        let mask = sparsegpt(&mut pruned, &factor, Pattern::Unstructured, 0.5);
        assert_eq!(mask.iter().filter(|stays| !**stays).count(), mask.len() / 2);
        error(&weights, &pruned, &moments)
    });
    errors.sort_by(f64::total_cmp);
    assert!(errors[1] < 2.0 * errors[0], "{errors:?}");
}

#[test]
fn least_squares_finds_the_weights_of_least_error() {
    let (weights, moments) = layer();
    let (weights, columns) = (&weights[..3 * COLUMNS], COLUMNS);
    let mask = wanda(weights, &moments, Pattern::Unstructured, 0.5);
    let mut pruned = weights.to_vec();
    apply(&mut pruned, &mask);
    let before = error(weights, &pruned, &moments);
    let mut scaled = pruned.clone();
    scale_rows(&mut scaled, weights, &moments);
    least_squares(&mut pruned, weights, &mask, &moments);
    assert!(pruned.iter().zip(&mask).all(|(weight, &stays)| stays || *weight == 0.0));
    // The dense solution of the first row: H_kk·w_k = (H·w0)_k.
    let kept: Vec<usize> = (0..columns).filter(|&j| mask[j]).collect();
    let damping = 1e-2 * moments.mean_squares().iter().map(|&x| f64::from(x)).sum::<f64>() / columns as f64;
    let hessian = |i: usize, j: usize| f64::from(moments.mean(i, j)) + if i == j { damping } else { 0.0 };
    let matrix = faer::Mat::<f64>::from_fn(kept.len(), kept.len(), |i, j| hessian(kept[i], kept[j]));
    let target = faer::Mat::<f64>::from_fn(kept.len(), 1, |i, _| {
        (0..columns).map(|j| hessian(kept[i], j) * f64::from(weights[j])).sum()
    });
    let solution = faer::linalg::solvers::Solve::solve(&matrix.partial_piv_lu(), &target);
    let mut optimum = vec![0.0; columns];
    for (i, &j) in kept.iter().enumerate() {
        optimum[j] = solution[(i, 0)] as f32;
    }
    let least = error(&weights[..columns], &optimum, &moments);
    let found = error(&weights[..columns], &pruned[..columns], &moments);
    assert!(found < 1.2 * least, "{found} {least}");
    let (after, scaled) = (error(weights, &pruned, &moments), error(weights, &scaled, &moments));
    assert!(after < 0.5 * before && scaled < before && after < scaled, "{before} {scaled} {after}");
}
