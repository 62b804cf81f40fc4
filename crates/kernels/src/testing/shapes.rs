//! Kernels of random shapes, formats and instruction sets beside MLX's own operations, through the functions that
//! models call. A failure is shrunk to the smallest shape that shows it.
//!
//! `PROPTEST_CASES=20000 cargo test --release shapes` searches longer.

use std::process::Command;

use mlx_rs::{Array, Dtype, ops};
use proptest::prelude::*;
use proptest::sample::select;

use crate::attention::{self, KeyValues, Mask, Scoring, attention};
use crate::conv::{self, conv2d};
use crate::cross_entropy::{self, cross_entropy};
use crate::error::MlxResult;
use crate::linear::{self, Layer, LowRank, Weight, linears};
use crate::matmul::{self, Transpose, matmul};
use crate::norm::{self, RmsNormOptions};
use crate::quantized::{Format, PackedWeight};
use crate::runtime::isa::{self, Isa};
use crate::softmax::{self, softmax};
use crate::testing::{FLOATS, difference, draw, gradients, tolerance, values};

/// Extents on both sides of what kernels cut into: registers, panels, tiles and groups.
fn extent() -> impl Strategy<Value = i32> {
    prop_oneof![
        4 => 1..=20,
        2 => select(vec![31, 32, 33, 63, 64, 65, 70, 112, 113, 127, 129, 255, 256, 257, 300]),
    ]
}

fn short() -> impl Strategy<Value = i32> {
    1..=4
}

fn dtype() -> impl Strategy<Value = Dtype> {
    select(FLOATS.to_vec())
}

/// A function of arrays, and what it is compared with.
type Function<'a> = &'a dyn Fn(&[Array]) -> MlxResult<Vec<Array>>;

/// Fails unless results and gradients with respect to all inputs, in their dtypes, are those of `mlx` in f32.
/// `terms` is how many numbers are summed for one, as far as the shapes decide it.
fn check(inputs: &[Array], terms: i32, ours: Function, mlx: Function) {
    let wide: Vec<Array> = inputs.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
    let argnums: Vec<i32> = (0..inputs.len() as i32).collect();
    let all = |f: Function, inputs: &[Array]| {
        let mut all = f(inputs).unwrap();
        all.extend(gradients(f, inputs, &argnums));
        all
    };
    let dtypes: Vec<Dtype> = inputs.iter().map(Array::dtype).collect();
    for (i, (x, y)) in all(ours, inputs).iter().zip(&all(mlx, &wide)).enumerate() {
        assert_eq!(x.shape(), y.shape(), "array {i}");
        // Roundings of terms add up at random. Gradients start from rounded numbers.
        let limit = 2.0 * dtypes.iter().map(|&dtype| tolerance(dtype)).fold(0.0, f64::max);
        let limit = limit * (1.0 + f64::from(terms).sqrt() / 4.0);
        let error = difference(&values(x), &values(y));
        assert!(error <= limit, "array {i} of {:?}: {error} is more than {limit}", x.shape());
    }
}

/// Sinks, where there are any, come behind queries, keys and values.
fn with_sinks<'a>(x: &'a [Array], plain: Scoring<'static>) -> Scoring<'a> {
    Scoring { sinks: x.get(3), ..plain }
}

proptest! {
    #[test]
    fn products(
        (batch, m, n, k) in (short(), extent(), extent(), extent()),
        (a_transposed, b_transposed, shared) in any::<(bool, bool, bool)>(),
        dtype in dtype(),
    ) {
        let transpose = Transpose { a: a_transposed, b: b_transposed };
        let a = if a_transposed { [batch, k, m] } else { [batch, m, k] };
        let b = if b_transposed { [batch, n, k] } else { [batch, k, n] };
        let b = if shared { &b[1..] } else { &b[..] };
        let inputs = [draw(&a, dtype, 1), draw(b, dtype, 2)];
        check(
            &inputs,
            k.max(n).max(batch * m),
            &|x| Ok(vec![matmul(&x[0], &x[1], transpose)?]),
            &|x| Ok(vec![matmul::reference(&x[0], &x[1], transpose)?]),
        );
    }

    #[test]
    fn layers(
        (rows, inputs, outputs, rank) in (extent(), extent(), extent(), short()),
        (with_bias, with_low_rank) in any::<(bool, bool)>(),
        dtype in dtype(),
    ) {
        let shapes: [&[i32]; 6] =
            [&[rows, inputs], &[outputs, inputs], &[3, inputs], &[outputs], &[inputs, rank], &[rank, outputs]];
        let used = if with_low_rank { 6 } else { 4 - usize::from(!with_bias) };
        let operands: Vec<Array> =
            shapes[..used].iter().zip(1..).map(|(shape, seed)| draw(shape, dtype, seed)).collect();
        let both = |x: &[Array], f: fn(&Array, &[Layer]) -> MlxResult<Vec<Array>>| {
            let low_rank = with_low_rank.then(|| LowRank { a: &x[4], b: &x[5], scale: 0.5 });
            let first = Layer { weight: Weight::Dense(&x[1]), bias: x.get(3), low_rank };
            f(&x[0], &[first, Layer::plain(Weight::Dense(&x[2]))])
        };
        let terms = inputs.max(outputs).max(rows) * if with_low_rank { 8 } else { 1 };
        check(&operands, terms, &|x| both(x, linears), &|x| both(x, linear::reference));
    }

    #[test]
    fn packed_layers(
        (rows, groups, outputs) in (extent(), short(), extent()),
        bits in select(vec![2, 3, 4, 5, 6, 8]),
        group_size in select(vec![32, 64, 128]),
        dtype in dtype(),
    ) {
        let inputs = groups * group_size;
        let weight = draw(&[outputs, inputs], Dtype::Float32, 1);
        let (codes, scales, biases) = ops::quantize(&weight, group_size, bits).unwrap();
        let [scales, biases] = [scales, biases].map(|x| x.as_dtype(dtype).unwrap());
        let format = Format::affine(bits as usize, group_size as usize).unwrap();
        let layer = |x: &[Array], f: fn(&Array, &[Layer]) -> MlxResult<Vec<Array>>| {
            let [scales, biases] = [&scales, &biases].map(|y| y.as_dtype(x[0].dtype()).unwrap());
            let weight = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
            f(&x[0], &[Layer::plain(Weight::Packed(weight))])
        };
        let x = [draw(&[rows, inputs], dtype, 2)];
        check(&x, inputs.max(outputs), &|x| layer(x, linears), &|x| layer(x, linear::reference));
    }

    #[test]
    fn attentions(
        (batch, time, before) in (short(), 1..=70, 0..=40),
        (kv_heads, share, head_dim) in (1..=3, 1..=3, select(vec![1, 8, 20, 32, 64, 80, 128])),
        mask in prop_oneof![Just(Mask::Causal), Just(Mask::Full), (1..=50).prop_map(Mask::Sliding)],
        softcap in proptest::option::of(0.5_f32..5.0),
        sinks in any::<bool>(),
        dtype in dtype(),
    ) {
        let keys = [batch, time + before, kv_heads, head_dim];
        let mut inputs = vec![
            draw(&[batch, time, kv_heads * share, head_dim], dtype, 1),
            draw(&keys, dtype, 2),
            draw(&keys, dtype, 3),
        ];
        if sinks {
            inputs.push(draw(&[kv_heads * share], dtype, 4));
        }
        let scale = (head_dim as f32).sqrt().recip();
        let plain = Scoring { softcap, ..Scoring::plain(scale, mask) };
        check(
            &inputs,
            share * time,
            &|x| Ok(vec![attention(&x[0], KeyValues::all(&x[1], &x[2]), with_sinks(x, plain), None)?]),
            &|x| Ok(vec![attention::reference(&x[0], KeyValues::all(&x[1], &x[2]), with_sinks(x, plain), None)?]),
        );
    }

    #[test]
    fn rows(rows in extent(), columns in extent(), offset in select(vec![0.0, 1.0]), dtype in dtype()) {
        let inputs = [&[rows, columns][..], &[rows, columns], &[columns], &[columns]];
        let inputs: Vec<Array> =
            inputs.iter().zip(1..).map(|(shape, seed)| draw(shape, dtype, seed)).collect();
        let rms = RmsNormOptions { eps: 1e-2, offset };
        check(
            &inputs,
            rows,
            &|x| {
                let (sum, normed) = norm::residual_rms_norm(&x[0], &x[1], &x[2], rms)?;
                let layer = norm::layer_norm(&x[0], &x[2], &x[3], 1e-2)?;
                Ok(vec![sum, normed, norm::rms_norm(&x[1], &x[3], rms)?, layer, softmax(&x[0])?])
            },
            &|x| {
                let (sum, normed) = norm::residual_rms_norm_reference(&x[0], &x[1], &x[2], rms)?;
                let layer = norm::layer_norm_reference(&x[0], &x[2], &x[3], 1e-2)?;
                let rms = norm::rms_norm_reference(&x[1], &x[3], rms)?;
                Ok(vec![sum, normed, rms, layer, softmax::reference(&x[0])?])
            },
        );
    }

    // Beside the definition: MLX 0.32 writes beyond its memory for some of these.
    #[test]
    fn convolutions(
        (batch, space) in (1..=2, [1..=12, 1..=24]),
        (groups, depth, outputs) in (prop_oneof![1..=3, 60..=70], prop_oneof![1..=4, 30..=35], 1..=3),
        kernel in [1..=4, 1..=4],
        (stride, dilation) in ([1_usize..=3, 1..=3], [1_usize..=2, 1..=2]),
        padding in [0_usize..=3, 0..=3],
        dtype in dtype(),
    ) {
        let depth = if groups > 3 { 1 } else { depth };
        let reach = [0, 1].map(|i| dilation[i] * (kernel[i] as usize - 1));
        prop_assume!((0..2).all(|i| reach[i] < space[i] as usize + 2 * padding[i]));
        let options = conv::Options { stride, padding, dilation, groups: groups as usize };
        let shapes = [
            [batch, space[0], space[1], groups * depth],
            [groups * outputs, kernel[0], kernel[1], depth],
        ];
        let inputs = [draw(&shapes[0], dtype, 1), draw(&shapes[1], dtype, 2)];
        let f = |x: &[Array]| Ok(vec![conv2d(&x[0], &x[1], options)?]);
        let y = f(&inputs).unwrap().remove(0);
        // What `gradients` multiplies results with.
        let [x, w, dy] = [&inputs[0], &inputs[1], &draw(y.shape(), dtype, 100)].map(values);
        let mut exact = [vec![0.0; y.size()], vec![0.0; x.len()], vec![0.0; w.len()]];
        let target = [y.dim(1) as usize, y.dim(2) as usize];
        conv::tests::products(shapes[0], shapes[1], target, options, |i, j, k| {
            exact[0][i] += x[j] * w[k];
            exact[1][j] += dy[i] * w[k];
            exact[2][k] += dy[i] * x[j];
        });
        let terms = depth.max(outputs) * kernel[0] * kernel[1] + batch * space[0] * space[1];
        let limit = 2.0 * tolerance(dtype) * (1.0 + f64::from(terms).sqrt() / 4.0);
        let ours = [y].into_iter().chain(gradients(f, &inputs, &[0, 1]));
        for (ours, exact) in ours.zip(&exact) {
            let error = difference(&values(&ours), exact);
            assert!(error <= limit, "{:?}: {error} is more than {limit}", ours.shape());
        }
    }

    #[test]
    fn losses(
        (rows, width, vocab) in (1..=40, extent(), prop_oneof![extent(), 900..=1100]),
        smoothing in select(vec![0.0, 0.1]),
        dtype in dtype(),
    ) {
        let targets: Vec<i32> = (0..rows).map(|i| (i * 7 + 3) % vocab).collect();
        let weights: Vec<f32> = (0..rows).map(|i| [1.0, 0.5, 0.0][i as usize % 3]).collect();
        let (targets, weights) = (Array::from_slice(&targets, &[rows]), Array::from_slice(&weights, &[rows]));
        let options = cross_entropy::Options { smoothing, gradient: true, softcap: None };
        let scale = Array::from_f32((width as f32).sqrt().recip()).as_dtype(dtype).unwrap();
        let hidden = draw(&[rows, width], dtype, 1).multiply(scale).unwrap();
        let inputs = [hidden, draw(&[vocab, width], dtype, 2)];
        check(
            &inputs,
            rows.max(width),
            &|x| {
                let head = Layer::plain(Weight::Dense(&x[1]));
                Ok(vec![cross_entropy(&x[0], &head, &targets, &weights, options)?])
            },
            &|x| {
                let head = Layer::plain(Weight::Dense(&x[1]));
                Ok(vec![cross_entropy::reference(&x[0], &head, &targets, &weights, options)?])
            },
        );
    }
}

/// A process has one instruction set, so the others have processes of their own.
#[test]
fn lower_instruction_sets_pass_all_of_it() {
    let (_, tests) = module_path!().split_once("::").unwrap();
    for level in Isa::available().filter(|&level| level < Isa::current()) {
        let run = Command::new(std::env::current_exe().unwrap())
            .args([tests, "--skip", "lower_instruction_sets"])
            .env(isa::VARIABLE, level.name())
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && !report.contains("running 0 tests"), "{level:?}: {report}");
    }
}
