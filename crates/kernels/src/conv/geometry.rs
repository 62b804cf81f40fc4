//! Sizes of a convolution, checked when the node is built.

use mlx_rs::error::Exception;

use super::Options;
use super::grid::{Axis, Grid, Tap};
use crate::error::MlxResult;

/// Sizes are those of MLX's arrays.
const MAX_EXTENT: usize = i32::MAX as usize;

/// Extents of one convolution over two dimensions of space; one dimension is a height of 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub batch: usize,
    /// Height and width of the input.
    pub source: [usize; 2],
    /// Height and width of the result.
    pub target: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Channels of the input and of the result, all groups together.
    pub inputs: usize,
    pub outputs: usize,
    pub groups: usize,
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Geometry {
    pub(super) fn of<const D: usize>(
        name: &str,
        x: &[i32],
        w: &[i32],
        options: Options<D>,
    ) -> MlxResult<Self> {
        let invalid = |message: String| Err(Exception::custom(format!("{name}: {message}")));
        let Options { stride, padding, dilation, groups } = options;
        let space = if D == 1 { "length" } else { "height, width" };
        let (Some((batch, source, inputs)), Some((outputs, kernel, depth))) = (split::<D>(x), split::<D>(w))
        else {
            let (argument, first, last, shape) = match split::<D>(x) {
                None => ("x", "batch", "in", x),
                Some(_) => ("w", "out", "in/groups", w),
            };
            return invalid(format!("{argument} must be [{first}, {space}, {last}], not {shape:?}"));
        };
        for (argument, sizes, least) in
            [("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)]
        {
            if sizes.iter().any(|size| !(least..=MAX_EXTENT).contains(size)) {
                return invalid(format!("{argument} must be from {least} to {MAX_EXTENT}, not {sizes:?}"));
            }
        }
        if groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
            return invalid(format!(
                "groups ({groups}) must divide the channels of x ({inputs}) and the outputs of w ({outputs})"
            ));
        }
        if depth * groups != inputs {
            return invalid(format!(
                "w of shape {w:?} must have {} channels: x has {inputs}, in {groups} groups",
                inputs / groups
            ));
        }
        let mut target: [usize; D] = [1; D];
        for i in 0..D {
            let room = source[i] + 2 * padding[i];
            let reach = dilation[i] * kernel[i].saturating_sub(1) + 1;
            if kernel[i] == 0 {
                return invalid(format!("w of shape {w:?} has a kernel without elements"));
            }
            if reach > room {
                return invalid(format!(
                    "w of shape {w:?} with dilation {dilation:?} reaches over {reach} pixels, and x of shape \
                     {x:?} with padding {padding:?} has {room}"
                ));
            }
            target[i] = (room - reach) / stride[i] + 1;
            if target[i] > MAX_EXTENT {
                return invalid(format!(
                    "padding {padding:?} makes a result of {target:?}: at most {MAX_EXTENT}"
                ));
            }
        }
        Ok(Self {
            batch,
            source: plane(source, 1),
            target: plane(target, 1),
            kernel: plane(kernel, 1),
            inputs,
            outputs,
            groups,
            stride: plane(stride, 1),
            padding: plane(padding, 0),
            dilation: plane(dilation, 1),
        })
    }

    /// Elements of the kernel in one channel.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Channels of one group: of the input and of the result.
    pub(super) fn group(&self) -> (usize, usize) {
        (self.inputs / self.groups, self.outputs / self.groups)
    }

    /// Whether each channel of the result comes from one of the input, and there is more than one.
    pub(super) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.group() == (1, 1)
    }

    /// What the pixels of the result read of the input.
    pub(super) fn forward(&self) -> Grid {
        let axis = |i: usize| Axis {
            source: self.source[i],
            target: self.target[i],
            first: 0,
            every: 1,
            step: self.stride[i],
            taps: (0..self.kernel[i])
                .map(|k| Tap { kernel: k, offset: self.shift(i, k).cast_signed() })
                .map(|tap| Tap { offset: tap.offset - self.padding[i].cast_signed(), ..tap })
                .collect(),
        };
        Grid { batch: self.batch, axes: [axis(0), axis(1)] }
    }

    /// What the pixels of the input's gradient read of the result's: pixels that are a stride apart meet the
    /// same elements of the kernel, so there is one grid for each remainder.
    pub(super) fn backward(&self) -> impl Iterator<Item = Grid> {
        let remainders = move |i: usize| 0..self.stride[i].min(self.source[i]);
        let axis = move |i: usize, first: usize| {
            // The pixel stands over element k where the result's is `(pixel + padding - k·dilation) / stride`.
            let place = move |k: usize| {
                let distance = (first + self.padding[i]).cast_signed() - self.shift(i, k).cast_signed();
                let stride = self.stride[i].cast_signed();
                (distance % stride == 0).then(|| Tap { kernel: k, offset: distance / stride })
            };
            // From the last on, so that offsets grow.
            let taps = (0..self.kernel[i]).rev().filter_map(place).collect();
            Axis {
                source: self.target[i],
                target: self.source[i],
                first,
                every: self.stride[i],
                step: 1,
                taps,
            }
        };
        remainders(0).flat_map(move |y| {
            remainders(1).map(move |x| Grid { batch: self.batch, axes: [axis(0, y), axis(1, x)] })
        })
    }

    /// Pixels from the first element of the kernel to the `k`-th.
    fn shift(&self, axis: usize, k: usize) -> usize {
        k * self.dilation[axis]
    }
}

/// `[first, space…, last]`
fn split<const D: usize>(shape: &[i32]) -> Option<(usize, [usize; D], usize)> {
    let size = |dim: i32| dim.unsigned_abs() as usize;
    let [first, space @ .., last] = shape else { return None };
    let space: [i32; D] = space.try_into().ok()?;
    Some((size(*first), space.map(size), size(*last)))
}

/// Height and width; one dimension is a width.
fn plane<const D: usize>(sizes: [usize; D], height: usize) -> [usize; 2] {
    let mut plane = [height; 2];
    plane[2 - D..].copy_from_slice(&sizes);
    plane
}
