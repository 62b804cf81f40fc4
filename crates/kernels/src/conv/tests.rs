use half::{bf16, f16};

use super::*;
use crate::gemm::Precision;
use crate::runtime::element::Element;
use crate::testing::{FLOATS, assert_close, difference, draw, gradients, tolerance, unaligned, values};

/// `x`, `w` and options of convolutions that differ in everything: the last ones are depthwise.
fn cases() -> Vec<([i32; 4], [i32; 4], Options<2>)> {
    let plain = Options::default();
    let same = Options { padding: [1, 1], ..plain };
    let strided = Options { stride: [2, 3], padding: [2, 1], ..plain };
    let dilated = Options { dilation: [2, 3], padding: [3, 0], ..plain };
    let everything = Options { stride: [3, 2], padding: [1, 4], dilation: [2, 1], groups: 3 };
    vec![
        ([2, 1, 1, 1], [1, 1, 1, 1], plain),
        ([0, 5, 5, 3], [4, 3, 3, 3], same),
        ([2, 5, 4, 0], [3, 2, 2, 0], plain),
        ([2, 5, 4, 3], [0, 2, 2, 3], plain),
        ([1, 7, 9, 33], [5, 1, 1, 33], plain),
        ([1, 1, 40, 5], [7, 1, 4, 5], Options { padding: [0, 3], ..plain }),
        ([2, 9, 11, 3], [35, 3, 3, 3], same),
        ([1, 12, 13, 40], [33, 3, 2, 40], same),
        ([2, 10, 11, 3], [4, 3, 4, 3], strided),
        ([1, 3, 3, 2], [3, 1, 1, 2], Options { stride: [2, 5], ..plain }),
        ([1, 8, 12, 3], [6, 4, 4, 3], Options { stride: [4, 4], ..plain }),
        ([1, 9, 10, 4], [5, 3, 3, 4], dilated),
        ([1, 2, 2, 3], [2, 3, 3, 3], Options { padding: [4, 2], ..plain }),
        ([2, 9, 8, 6], [9, 2, 3, 2], everything),
        ([1, 6, 5, 24], [48, 3, 3, 1], Options { groups: 24, ..same }),
        ([2, 6, 5, 64], [32, 3, 3, 4], Options { groups: 16, ..same }),
        ([0, 5, 5, 3], [3, 3, 3, 1], Options { groups: 3, ..same }),
        ([2, 7, 6, 70], [70, 3, 3, 1], Options { groups: 70, ..same }),
        ([1, 1, 50, 130], [130, 1, 3, 1], Options { groups: 130, padding: [0, 2], ..plain }),
        ([2, 9, 8, 3], [3, 2, 3, 1], everything),
    ]
}

fn len(shape: [i32; 4]) -> usize {
    shape.iter().map(|&dim| dim as usize).product()
}

fn wide<T: Element>(row: &[T]) -> Vec<f64> {
    row.iter().map(|&x| f64::from(Element::to_f32(x))).collect()
}

/// Calls `term` with where `y`, `x` and `w` meet, for each product of the definition.
pub(crate) fn products(
    [batch, height, width, inputs]: [i32; 4],
    [outputs, rows, columns, depth]: [i32; 4],
    [out_height, out_width]: [usize; 2],
    options: Options<2>,
    mut term: impl FnMut(usize, usize, usize),
) {
    let [[sy, sx], [py, px], [dy, dx]] =
        [options.stride, options.padding, options.dilation].map(|sizes| sizes.map(|size| size as i32));
    let mut y = 0;
    for n in 0..batch {
        for (i, j) in (0..out_height as i32).flat_map(|i| (0..out_width as i32).map(move |j| (i, j))) {
            for o in 0..outputs {
                let group = o / (outputs / options.groups as i32);
                for (k, l) in (0..rows).flat_map(|k| (0..columns).map(move |l| (k, l))) {
                    let (line, column) = (i * sy + k * dy - py, j * sx + l * dx - px);
                    if (0..height).contains(&line) && (0..width).contains(&column) {
                        let x = ((n * height + line) * width + column) * inputs + group * depth;
                        let w = ((o * rows + k) * columns + l) * depth;
                        (0..depth).for_each(|c| term(y, (x + c) as usize, (w + c) as usize));
                    }
                }
                y += 1;
            }
        }
    }
}

fn kernels_equal_f64<T: Element>(dtype: Dtype, precision: Precision) {
    for (x_shape, w_shape, options) in cases() {
        let geometry = Geometry::of("conv2d", &x_shape, &w_shape, options).unwrap();
        let y_len = geometry.batch * geometry.target.iter().product::<usize>() * geometry.outputs;
        let [x, w, dy] =
            [(len(x_shape), 1), (len(w_shape), 2), (y_len, 3)].map(|(len, seed)| unaligned::<T>(len, seed));
        let (x, w, dy) = (&x[1..], &w[1..], &dy[1..]);
        let (wide_x, wide_w, wide_dy) = (wide(x), wide(w), wide(dy));
        let mut exact = [vec![0.0; y_len], vec![0.0; x.len()], vec![0.0; w.len()]];
        products(x_shape, w_shape, geometry.target, options, |y, x, w| {
            exact[0][y] += wide_x[x] * wide_w[w];
            exact[1][x] += wide_dy[y] * wide_w[w];
            exact[2][w] += wide_dy[y] * wide_x[x];
        });
        for isa in Isa::available() {
            let mut ours = exact.each_ref().map(|exact| vec![T::from_f32(f32::NAN); exact.len() + 1]);
            let [y, dx, dw] = &mut ours;
            let (y, dx, dw) = (&mut y[1..], &mut dx[1..], &mut dw[1..]);
            if geometry.is_depthwise() {
                depthwise::forward(isa, &geometry, x, w, y);
                depthwise::input_gradient(isa, &geometry, dy, w, dx);
                depthwise::weight_gradient(isa, &geometry, x, dy, dw);
            } else {
                product::forward(isa, precision, &geometry, x, w, y);
                product::input_gradient(isa, precision, &geometry, dy, w, dx);
                product::weight_gradient(isa, precision, &geometry, x, dy, dw);
            }
            for (what, (ours, exact)) in ["y", "dx", "dw"].iter().zip(ours.iter().zip(&exact)) {
                let error = difference(&wide(&ours[1..]), exact);
                // Sums cancel, so that their errors are those of larger numbers.
                let limit = if dtype == Dtype::Float32 { 1e-4 } else { tolerance(dtype) };
                assert!(
                    error <= limit,
                    "{what} {isa:?} {dtype:?} {x_shape:?} {w_shape:?} {options:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn kernels_equal_f64_on_every_instruction_set() {
    kernels_equal_f64::<f32>(Dtype::Float32, Precision::F32);
    kernels_equal_f64::<f16>(Dtype::Float16, Precision::F32);
    kernels_equal_f64::<bf16>(Dtype::Bfloat16, Precision::Bf16);
}

/// Results and gradients of `ours` and of MLX, in f32.
fn equal_mlx(
    inputs: &[Array],
    ours: impl Fn(&[Array]) -> MlxResult<Array>,
    mlx: impl Fn(&[Array]) -> MlxResult<Array>,
    context: &str,
) {
    let all = |f: &dyn Fn(&[Array]) -> MlxResult<Array>| {
        let mut all = gradients(|x| Ok(vec![f(x)?]), inputs, &[0, 1]);
        all.push(f(inputs).unwrap());
        all
    };
    for (ours, mlx) in all(&ours).iter().zip(&all(&mlx)) {
        assert_eq!((ours.shape(), ours.dtype()), (mlx.shape(), mlx.dtype()), "{context}");
        let error = difference(&values(ours), &values(mlx));
        assert!(error <= 1e-4, "{context}, {:?}: {error}", ours.shape());
    }
}

#[test]
fn results_and_gradients_equal_mlx() {
    // Where a kernel can stand beside the image, the gradient of MLX 0.32 loses the pixels.
    let supported = |x, w: [i32; 4], options: Options<2>| {
        let beside = (0..2).any(|i| options.padding[i] >= options.dilation[i] * w[i + 1] as usize);
        len(x) * len(w) > 0 && !beside
    };
    for (x, w, options) in cases().into_iter().filter(|&(x, w, options)| supported(x, w, options)) {
        let inputs = [draw(&x, Dtype::Float32, 1), draw(&w, Dtype::Float32, 2)];
        let context = format!("{x:?} {w:?} {options:?}");
        equal_mlx(
            &inputs,
            |x| conv2d(&x[0], &x[1], options),
            |x| conv2d_reference(&x[0], &x[1], options),
            &context,
        );
    }
}

#[test]
fn one_dimension_equals_mlx() {
    for (x, w, groups) in
        [([2, 33, 6], [4, 3, 6], 1), ([2, 33, 6], [4, 3, 3], 2), ([1, 40, 70], [70, 3, 1], 70)]
    {
        for (stride, padding, dilation) in [(1, 0, 1), (1, 2, 1), (3, 1, 2)] {
            let options = Options { stride: [stride], padding: [padding], dilation: [dilation], groups };
            let inputs = [draw(&x, Dtype::Float32, 1), draw(&w, Dtype::Float32, 2)];
            let context = format!("{x:?} {w:?} {options:?}");
            equal_mlx(
                &inputs,
                |x| conv1d(&x[0], &x[1], options),
                |x| conv1d_reference(&x[0], &x[1], options),
                &context,
            );
        }
    }
}

#[test]
fn sums_longer_than_a_block_are_whole() {
    // More pixels than are packed at once, and than are summed over at once for the weight.
    let options = Options { padding: [1, 1], ..Options::default() };
    let inputs = [draw(&[2, 70, 71, 20], Dtype::Float32, 1), draw(&[20, 3, 3, 20], Dtype::Float32, 2)];
    let y = conv2d(&inputs[0], &inputs[1], options).unwrap();
    assert_close(&y, &conv2d_reference(&inputs[0], &inputs[1], options).unwrap(), "forward");
    let grads = |f: fn(&Array, &Array, Options<2>) -> MlxResult<Array>| {
        gradients(|x| Ok(vec![f(&x[0], &x[1], options)?]), &inputs, &[1]).swap_remove(0)
    };
    let (ours, mlx) = (values(&grads(conv2d)), values(&grads(conv2d_reference)));
    // MLX's own sums of ten thousand numbers are no more exact than this.
    assert!(difference(&ours, &mlx) < 1e-2, "{}", difference(&ours, &mlx));
}

#[test]
fn every_dtype_comes_back_as_it_went_in() {
    for dtype in FLOATS {
        let inputs = [draw(&[1, 6, 7, 5], dtype, 1), draw(&[3, 3, 3, 5], dtype, 2)];
        let options = Options::default();
        let grads = gradients(|x| Ok(vec![conv2d(&x[0], &x[1], options)?]), &inputs, &[0, 1]);
        let y = conv2d(&inputs[0], &inputs[1], options).unwrap();
        let wide = inputs.each_ref().map(|x| x.as_dtype(Dtype::Float32).unwrap());
        let expected = conv2d_reference(&wide[0], &wide[1], options).unwrap();
        assert!(difference(&values(&y), &values(&expected)) <= tolerance(dtype), "{dtype:?}");
        assert_eq!([y.dtype(), grads[0].dtype(), grads[1].dtype()], [dtype; 3]);
    }
}

#[test]
fn misfits_name_the_argument() {
    let zeros = |shape: &[i32]| Array::zeros::<f32>(shape).unwrap();
    let plain = Options::default();
    let (x, w) = (&[1, 5, 6, 4][..], &[6, 3, 3, 4][..]);
    let cases = [
        (&[5, 6, 4][..], w, plain, "x must be [batch, height, width, in], not [5, 6, 4]"),
        (x, &[6, 3, 4], plain, "w must be [out, height, width, in/groups], not [6, 3, 4]"),
        (x, w, Options { stride: [0, 1], ..plain }, "stride must be from 1 to 2147483647, not [0, 1]"),
        (x, w, Options { dilation: [1, 0], ..plain }, "dilation must be from 1 to 2147483647, not [1, 0]"),
        (x, w, Options { padding: [0, 1 << 40], ..plain }, "padding must be from 0 to 2147483647"),
        (x, w, Options { padding: [0, 2_000_000_000], ..plain }, "padding [0, 2000000000] makes a result of"),
        (x, w, Options { groups: 0, ..plain }, "groups (0) must divide the channels of x (4)"),
        (
            x,
            w,
            Options { groups: 4, ..plain },
            "groups (4) must divide the channels of x (4) and the outputs of w (6)",
        ),
        (
            x,
            w,
            Options { groups: 2, ..plain },
            "w of shape [6, 3, 3, 4] must have 2 channels: x has 4, in 2 groups",
        ),
        (x, &[6, 0, 3, 4], plain, "w of shape [6, 0, 3, 4] has a kernel without elements"),
        (
            x,
            w,
            Options { dilation: [3, 1], ..plain },
            "w of shape [6, 3, 3, 4] with dilation [3, 1] reaches over 7 pixels",
        ),
    ];
    for (x, w, options, expected) in cases {
        let message = conv2d(&zeros(x), &zeros(w), options).unwrap_err().what().to_owned();
        assert!(message.starts_with("conv2d: ") && message.contains(expected), "{message}");
    }
    let message = conv1d(&zeros(&[1, 4]), &zeros(&[1, 2, 4]), Options::default()).unwrap_err();
    assert!(message.what().contains("conv1d: x must be [batch, length, in], not [1, 4]"), "{message}");
}
