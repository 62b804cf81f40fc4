//! What a quantized key-value cache costs, on the embedded model and text of its own.

use std::path::Path;

use efficientai_toolkit::kernels::eval;
use efficientai_toolkit::kernels::quantized::Format;
use efficientai_toolkit::models::{self, Model};
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

const TOKENS: usize = 640;
const CHUNK: usize = 64;

/// Text that the model itself finds likely, from a fixed sequence of random numbers.
fn sampled(model: &Model) -> Vec<u32> {
    let (mut cache, mut ids, mut state) = (model.new_cache(0).unwrap(), vec![1_u32], 7_u64);
    while ids.len() < TOKENS {
        let logits =
            model.forward(&Array::from_slice(&ids[ids.len() - 1..], &[1, 1]), Some(&mut cache)).unwrap();
        let probabilities = mlx_rs::ops::softmax_axis(logits.reshape(&[-1]).unwrap(), -1, true).unwrap();
        eval([&probabilities].into_iter().chain(cache.arrays())).unwrap();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut left = (state >> 40) as f32 / (1_u64 << 24) as f32;
        let next = probabilities.as_slice::<f32>().iter().position(|p| {
            left -= p;
            left < 0.0
        });
        ids.push(next.unwrap_or(1) as u32);
    }
    ids
}

/// Log-probabilities after each token, read in chunks, `[tokens, vocab]`.
fn log_probabilities(model: &Model, ids: &[u32], format: Option<Format>) -> Vec<Array> {
    let mut cache = model.new_cache(0).unwrap();
    if let Some(format) = format {
        cache.quantize(format);
    }
    let chunks = ids.chunks(CHUNK).map(|ids| {
        let logits =
            model.forward(&Array::from_slice(ids, &[1, ids.len() as i32]), Some(&mut cache)).unwrap();
        let logits = logits.as_dtype(Dtype::Float32).unwrap();
        let logs = logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap();
        eval([&logs].into_iter().chain(cache.arrays())).unwrap();
        logs.try_index(0).unwrap()
    });
    chunks.collect()
}

#[test]
fn eight_bits_cost_less_than_a_thousandth_of_a_nat() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/efficientai_toolkit/assets/model");
    let model = models::load(&folder, Some(Dtype::Float32), None).unwrap();
    let ids = sampled(model.as_ref());
    let exact = log_probabilities(model.as_ref(), &ids, None);
    for (bits, limit) in [(8, 1e-3), (4, 5e-2)] {
        let quantized = log_probabilities(model.as_ref(), &ids, Some(Format::affine(bits, 32).unwrap()));
        let mut divergence = 0.0;
        for (p, q) in exact.iter().zip(&quantized) {
            let terms = p.exp().unwrap().multiply(p.subtract(q).unwrap()).unwrap();
            let sum = terms.sum(None).unwrap();
            eval([&sum]).unwrap();
            divergence += f64::from(sum.item_exact::<f32>()) / TOKENS as f64;
        }
        assert!(divergence > 1e-9 && divergence < limit, "{bits} bits: {divergence} nats");
    }
}
