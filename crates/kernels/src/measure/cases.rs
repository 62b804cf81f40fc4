//! The operations of a report, at sizes of a small language model.

use mlx_rs::transforms::fallible_vjp;
use mlx_rs::{Array, Dtype};

use super::peaks::Arithmetic;
use super::random::{floats, ids, packed};
use super::{Call, Matrix};
use crate::activation::{Activation, gated};
use crate::adamw::{Hyperparameters, Scalars, Tensor, adamw};
use crate::attention::{KeyValues, Mask, Scoring, attention};
use crate::conv::{self, conv1d, conv2d};
use crate::cross_entropy::{Options, cross_entropy};
use crate::embedding::embedding;
use crate::error::MlxResult;
use crate::gemm::{self, Precision};
use crate::linear::{Layer, LowRank, Weight, linears};
use crate::norm::{RmsNormOptions, rms_norm};
use crate::quantized::{self, Accuracy, Format};
use crate::rope::{Positions, RotaryFrequencies, rope};
use crate::runtime::isa::Isa;
use crate::softmax::softmax;

/// An operation with its operands.
pub(super) struct Case {
    pub operation: &'static str,
    pub size: String,
    pub format: &'static str,
    pub path: String,
    /// Multiplications and additions of its matrix products.
    pub operations: f64,
    /// Every operand and result once.
    pub bytes: f64,
    pub arithmetic: Arithmetic,
    pub build: Box<dyn Fn() -> MlxResult<Call>>,
}

type Make = fn(Isa) -> MlxResult<Case>;

/// Made one after the other, so that only one holds memory.
pub(super) const CASES: &[Make] = &[
    |isa| linear(isa, Dtype::Float32, false),
    |isa| linear(isa, Dtype::Float32, true),
    |isa| linear(isa, Dtype::Bfloat16, false),
    |isa| linear(isa, Dtype::Bfloat16, true),
    |isa| lora(isa, false),
    |isa| lora(isa, true),
    |isa| quantized_linear(isa, Accuracy::F32, DECODE),
    |isa| quantized_linear(isa, Accuracy::Bf16, DECODE),
    |isa| quantized_linear(isa, Accuracy::Int8, DECODE),
    |isa| quantized_linear(isa, Accuracy::F32, PREFILL),
    |isa| quantized_linear(isa, Accuracy::Bf16, PREFILL),
    |isa| quantized_linear(isa, Accuracy::Int8, PREFILL),
    |isa| attend(isa, false),
    |isa| attend(isa, true),
    |isa| convolve(isa, Dtype::Float32, false),
    |isa| convolve(isa, Dtype::Float32, true),
    |isa| convolve(isa, Dtype::Bfloat16, false),
    short_convolve,
    normalize,
    swiglu,
    rotate,
    soften,
    look_up,
    loss,
    update,
];

/// Rows, inputs and outputs.
type Extents = [usize; 3];
const TRAINING: Extents = [2048, 1024, 2048];
/// A weight too large for caches, as those of a whole model are.
const DECODE: Extents = [1, 4096, 32_768];
const PREFILL: Extents = [512, 2048, 4096];
/// Activations of operations without products: `[tokens, width]`.
const WIDE: [usize; 2] = [4096, 2048];

fn linear(isa: Isa, dtype: Dtype, backward: bool) -> MlxResult<Case> {
    let [rows, inputs, outputs] = TRAINING;
    let (x, weight) = (floats(&[rows, inputs], dtype, 1)?, floats(&[outputs, inputs], dtype, 2)?);
    let (precision, arithmetic, format) = products_of(dtype);
    let run = |operands: &[Array]| linears(&operands[0], &[Layer::plain(Weight::Dense(&operands[1]))]);
    let passes = if backward { 2 } else { 1 };
    let moved = (rows * inputs + outputs * inputs) * passes + rows * outputs;
    Ok(Case {
        operation: if backward { "linear backward" } else { "linear" },
        size: times(&TRAINING),
        format,
        path: gemm::describe(isa, precision),
        operations: (2 * rows * inputs * outputs * passes) as f64,
        bytes: (moved * size_of_element(dtype)) as f64,
        arithmetic,
        build: pass(run, vec![x, weight], &[&[rows, outputs]], dtype, backward)?,
    })
}

fn lora(isa: Isa, backward: bool) -> MlxResult<Case> {
    const RANK: usize = 16;
    let [rows, inputs, outputs] = TRAINING;
    let float = |shape: &[usize], seed| floats(shape, Dtype::Bfloat16, seed);
    let weight = float(&[outputs, inputs], 1)?;
    let operands = vec![float(&[rows, inputs], 2)?, float(&[inputs, RANK], 3)?, float(&[RANK, outputs], 4)?];
    let run = move |operands: &[Array]| {
        let low_rank = Some(LowRank { a: &operands[1], b: &operands[2], scale: 2.0 });
        linears(&operands[0], &[Layer { weight: Weight::Dense(&weight), bias: None, low_rank }])
    };
    // Backward, each of both low-rank matrices has a gradient and passes one on.
    let low_rank = 2 * rows * RANK * (inputs + outputs) * if backward { 2 } else { 1 };
    let adapter = RANK * (inputs + outputs) * if backward { 2 } else { 1 };
    let moved = rows * inputs * if backward { 2 } else { 1 } + rows * outputs + inputs * outputs + adapter;
    Ok(Case {
        operation: if backward { "lora linear backward" } else { "lora linear" },
        size: format!("{} rank {RANK}", times(&TRAINING)),
        format: "bf16",
        path: gemm::describe(isa, Precision::Bf16),
        operations: (2 * rows * inputs * outputs + low_rank) as f64,
        bytes: (2 * moved) as f64,
        arithmetic: Arithmetic::Bf16,
        build: pass(run, operands, &[&[rows, outputs]], Dtype::Bfloat16, backward)?,
    })
}

fn quantized_linear(isa: Isa, accuracy: Accuracy, extents: Extents) -> MlxResult<Case> {
    let [rows, inputs, outputs] = extents;
    let (dtype, arithmetic) = match accuracy {
        Accuracy::F32 => (Dtype::Float32, Arithmetic::F32),
        Accuracy::Bf16 => (Dtype::Bfloat16, Arithmetic::Bf16),
        Accuracy::Int8 => (Dtype::Bfloat16, Arithmetic::Int8),
    };
    let format = Format::affine(4, 64)?;
    let (x, weight) = (floats(&[rows, inputs], dtype, 1)?, packed(outputs, inputs, format, dtype)?);
    let scales = 2 * outputs * inputs / format.group_size() * size_of_element(dtype);
    Ok(Case {
        operation: if rows == 1 { "4-bit linear, decode" } else { "4-bit linear, prefill" },
        size: times(&extents),
        format: accuracy.name(),
        path: quantized::describe(isa, accuracy, format, rows),
        operations: (2 * rows * inputs * outputs) as f64,
        bytes: (outputs * inputs / 2 + scales + rows * (inputs + outputs) * size_of_element(dtype)) as f64,
        arithmetic,
        build: {
            let weight = Matrix::Packed(weight);
            Box::new(move || {
                let layers = [Layer::plain(weight.borrow())];
                Ok(Call::of(accuracy.scope(|| linears(&x, &layers))?))
            })
        },
    })
}

fn attend(isa: Isa, backward: bool) -> MlxResult<Case> {
    let (time, heads, kv_heads, head_dim) = (1024, 16, 8, 64);
    let q = floats(&[1, time, heads, head_dim], Dtype::Float32, 1)?;
    let kv = |seed| floats(&[1, time, kv_heads, head_dim], Dtype::Float32, seed);
    let run = |operands: &[Array]| {
        let keys = KeyValues::all(&operands[1], &operands[2]);
        Ok(vec![attention(&operands[0], keys, Scoring::plain(0.125, Mask::Causal), None)?])
    };
    // Half of the scores are masked. Forward there are two products of this size, backward five.
    let product = time * time / 2 * heads * head_dim * 2;
    let numbers = 2 * time * (heads + kv_heads) * head_dim * if backward { 2 } else { 1 };
    Ok(Case {
        operation: if backward { "attention backward" } else { "attention" },
        size: format!("{time} tokens, {heads}/{kv_heads} heads of {head_dim}"),
        path: vector_level(isa),
        operations: (product * if backward { 5 } else { 2 }) as f64,
        build: pass(run, vec![q, kv(2)?, kv(3)?], &[&[1, time, heads, head_dim]], Dtype::Float32, backward)?,
        ..streaming(isa, numbers)
    })
}

fn convolve(isa: Isa, dtype: Dtype, backward: bool) -> MlxResult<Case> {
    let (batch, side, inputs, outputs, kernel) = (8, 56, 64, 128, 3);
    let x = floats(&[batch, side, side, inputs], dtype, 1)?;
    let w = floats(&[outputs, kernel, kernel, inputs], dtype, 2)?;
    let options = conv::Options { padding: [1, 1], ..conv::Options::default() };
    let run = move |operands: &[Array]| Ok(vec![conv2d(&operands[0], &operands[1], options)?]);
    let (pixels, depth) = (batch * side * side, kernel * kernel * inputs);
    let passes = if backward { 2 } else { 1 };
    let moved = (pixels * inputs + outputs * depth) * passes + pixels * outputs;
    let (precision, arithmetic, format) = products_of(dtype);
    Ok(Case {
        operation: if backward { "conv2d backward" } else { "conv2d" },
        size: format!("{batch} of {side}x{side}, {inputs} to {outputs}, kernel {kernel}x{kernel}"),
        format,
        path: gemm::describe(isa, precision),
        operations: (2 * pixels * depth * outputs * passes) as f64,
        bytes: (moved * size_of_element(dtype)) as f64,
        arithmetic,
        build: pass(run, vec![x, w], &[&[batch, side, side, outputs]], dtype, backward)?,
    })
}

/// Each channel by itself.
fn short_convolve(isa: Isa) -> MlxResult<Case> {
    let (time, width, kernel) = (2048, 2048, 3);
    let (x, w) =
        (floats(&[1, time, width], Dtype::Float32, 1)?, floats(&[width, kernel, 1], Dtype::Float32, 2)?);
    let options = conv::Options { padding: [kernel - 1], groups: width, ..conv::Options::default() };
    Ok(Case {
        operation: "depthwise conv1d",
        size: format!("{time} tokens, {width} channels, kernel {kernel}"),
        build: Box::new(move || Ok(Call::of(vec![conv1d(&x, &w, options)?]))),
        ..streaming(isa, 2 * time * width)
    })
}

fn normalize(isa: Isa) -> MlxResult<Case> {
    let (x, weight) = (floats(&WIDE, Dtype::Float32, 1)?, floats(&WIDE[1..], Dtype::Float32, 2)?);
    Ok(Case {
        operation: "rms_norm",
        size: times(&WIDE),
        build: Box::new(move || {
            Ok(Call::of(vec![rms_norm(&x, &weight, RmsNormOptions { eps: 1e-5, offset: 0.0 })?]))
        }),
        ..streaming(isa, 2 * WIDE[0] * WIDE[1])
    })
}

fn swiglu(isa: Isa) -> MlxResult<Case> {
    let (gate, up) = (floats(&WIDE, Dtype::Float32, 1)?, floats(&WIDE, Dtype::Float32, 2)?);
    Ok(Case {
        operation: "swiglu",
        size: times(&WIDE),
        build: Box::new(move || Ok(Call::of(vec![gated(Activation::Silu, &gate, &up)?]))),
        ..streaming(isa, 3 * WIDE[0] * WIDE[1])
    })
}

fn rotate(isa: Isa) -> MlxResult<Case> {
    let (time, heads, kv_heads, head_dim) = (4096, 32, 8, 64);
    let q = floats(&[1, time, heads, head_dim], Dtype::Float32, 1)?;
    let k = floats(&[1, time, kv_heads, head_dim], Dtype::Float32, 2)?;
    let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, head_dim as i32), 1.0);
    Ok(Case {
        operation: "rope",
        size: format!("{time} tokens, {heads}/{kv_heads} heads of {head_dim}"),
        build: Box::new(move || {
            let (q, k) = rope(&q, &k, &rotation, Positions::Offset(0))?;
            Ok(Call::of(vec![q, k]))
        }),
        ..streaming(isa, 2 * time * (heads + kv_heads) * head_dim)
    })
}

fn soften(isa: Isa) -> MlxResult<Case> {
    let x = floats(&WIDE, Dtype::Float32, 1)?;
    Ok(Case {
        operation: "softmax",
        size: times(&WIDE),
        build: Box::new(move || Ok(Call::of(vec![softmax(&x)?]))),
        ..streaming(isa, 2 * WIDE[0] * WIDE[1])
    })
}

fn look_up(isa: Isa) -> MlxResult<Case> {
    let (vocab, tokens, width) = (16_384, 8192, 1024);
    let table = floats(&[vocab, width], Dtype::Float32, 1)?;
    let ids = ids(&[1, tokens], vocab, 2);
    Ok(Case {
        operation: "embedding",
        size: times(&[tokens, width]),
        // Rows are copied as they are.
        path: "copy".to_owned(),
        build: Box::new(move || Ok(Call::of(vec![embedding(&table, &ids)?]))),
        ..streaming(isa, 2 * tokens * width)
    })
}

fn loss(isa: Isa) -> MlxResult<Case> {
    let (rows, width, vocab) = (256, 1024, 16_384);
    let hidden = floats(&[rows, width], Dtype::Float32, 1)?;
    let head = floats(&[vocab, width], Dtype::Float32, 2)?;
    let (targets, weights) = (ids(&[rows], vocab, 3), floats(&[rows], Dtype::Float32, 4)?.abs()?);
    Ok(Case {
        operation: "cross_entropy",
        size: times(&[rows, width, vocab]),
        path: gemm::describe(isa, Precision::F32),
        // The logits, and the gradient of what the head takes.
        operations: (2 * 2 * rows * width * vocab) as f64,
        build: Box::new(move || {
            let options = Options { gradient: true, ..Options::default() };
            let head = Layer::plain(Weight::Dense(&head));
            Ok(Call::of(vec![cross_entropy(&hidden, &head, &targets, &weights, options)?]))
        }),
        ..streaming(isa, vocab * width + 2 * rows * width)
    })
}

fn update(isa: Isa) -> MlxResult<Case> {
    let shape = WIDE;
    let float = |seed| floats(&shape, Dtype::Float32, seed);
    let (parameter, grad, first, second) = (float(1)?, float(2)?, float(3)?, float(4)?.abs()?);
    let hyperparameters = Hyperparameters { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let grad_scale = Array::from_f32(1.0);
    let factors = hyperparameters.factors(1e-4, 10).map(|factor| Array::from_f32(factor as f32));
    Ok(Case {
        operation: "adamw",
        size: times(&shape),
        build: Box::new(move || {
            let moments = Some([&first, &second]);
            let scalars = Scalars { grad_scale: &grad_scale, factors: factors.each_ref() };
            let updated =
                adamw(&hyperparameters, scalars, &[Tensor { parameter: &parameter, grad: &grad, moments }])?;
            Ok(Call::of(updated.into_iter().flat_map(|u| [u.parameter, u.first, u.second]).collect()))
        }),
        ..streaming(isa, 7 * shape[0] * shape[1])
    })
}

/// What operations on f32 without products have in common; `numbers` of them are read or written.
fn streaming(isa: Isa, numbers: usize) -> Case {
    Case {
        operation: "",
        size: String::new(),
        format: "f32",
        path: vector_level(isa),
        operations: 0.0,
        bytes: (4 * numbers) as f64,
        arithmetic: Arithmetic::F32,
        build: Box::new(|| Ok(Call::of(Vec::new()))),
    }
}

/// The instruction set of kernels that are vectorised by the compiler.
fn vector_level(isa: Isa) -> String {
    isa.min(Isa::Avx512).name().to_owned()
}

/// `run` of `operands`, or only the gradients of all of them, given those of outputs of `shapes`.
fn pass(
    run: impl Fn(&[Array]) -> MlxResult<Vec<Array>> + 'static,
    operands: Vec<Array>,
    shapes: &[&[usize]],
    dtype: Dtype,
    backward: bool,
) -> MlxResult<Box<dyn Fn() -> MlxResult<Call>>> {
    if !backward {
        return Ok(Box::new(move || Ok(Call::of(run(&operands)?))));
    }
    let cotangents: Vec<_> = shapes.iter().map(|shape| floats(shape, dtype, 9)).collect::<MlxResult<_>>()?;
    Ok(Box::new(move || {
        let (before, timed) = fallible_vjp(&run, &operands, &cotangents)?;
        Ok(Call { before, timed })
    }))
}

/// How products of operands of `dtype` are computed.
fn products_of(dtype: Dtype) -> (Precision, Arithmetic, &'static str) {
    match dtype {
        Dtype::Bfloat16 => (Precision::Bf16, Arithmetic::Bf16, "bf16"),
        _ => (Precision::F32, Arithmetic::F32, "f32"),
    }
}

fn size_of_element(dtype: Dtype) -> usize {
    if dtype == Dtype::Float32 { 4 } else { 2 }
}

fn times(extents: &[usize]) -> String {
    extents.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
