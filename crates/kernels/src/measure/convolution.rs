//! Benchmark of 2D convolutions.

use std::slice::from_ref;

use mlx_rs::transforms::fallible_vjp;
use serde::Deserialize;

use super::{Budget, Call, Float, MAX_ELEMENTS, MAX_EXTENT, median, random};
use crate::conv::{Options, conv2d};
use crate::{Error, Result};

/// Timed pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Pass {
    Forward,
    InputGradient,
    WeightGradient,
}

/// A convolution of `[batch, height, width, inputs]` with a square kernel `[outputs, kernel, kernel, inputs/groups]` and
/// padding `kernel / 2`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Convolution {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub groups: usize,
    pub dtype: Float,
    pub pass: Pass,
}

impl Convolution {
    /// Pixels of the result along an extent of `source` pixels.
    fn target(&self, source: usize) -> usize {
        (source + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1
    }

    pub(super) fn check(&self) -> Result<()> {
        let Self { batch, height, width, inputs, outputs, kernel, stride, groups, .. } = *self;
        let invalid = |message: String| Err(Error::Config(message));
        let extents = [("batch", batch), ("height", height), ("width", width), ("inputs", inputs)];
        let others = [("outputs", outputs), ("kernel", kernel), ("stride", stride), ("groups", groups)];
        for (name, extent) in extents.into_iter().chain(others) {
            if !(1..=MAX_EXTENT).contains(&extent) {
                return invalid(format!("`{name}` must be from 1 to {MAX_EXTENT}, not {extent}"));
            }
        }
        if !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            return invalid(format!(
                "`groups` must divide `inputs` ({inputs}) and `outputs` ({outputs}), not {groups}"
            ));
        }
        if kernel > height.min(width) {
            return invalid(format!("`kernel` must be at most `height` and `width`, not {kernel}"));
        }
        let numbers = |extents: &[usize]| extents.iter().try_fold(1usize, |all, &one| all.checked_mul(one));
        let images =
            [batch, self.target(height).max(height), self.target(width).max(width), inputs.max(outputs)];
        for (what, extents) in [("images", images), ("kernels", [outputs, kernel, kernel, inputs / groups])] {
            if numbers(&extents).is_none_or(|count| count > MAX_ELEMENTS) {
                return invalid(format!("the {what} must have at most {MAX_ELEMENTS} numbers"));
            }
        }
        Ok(())
    }
}

/// Returns the median time of one pass in seconds, on random inputs. Takes at least half a second.
///
/// # Errors
/// [`Error::Config`] for invalid or too large sizes, before anything is allocated.
pub fn measure_convolution(request: &Convolution) -> Result<f64> {
    request.check()?;
    let Convolution { batch, height, width, inputs, outputs, kernel, stride, groups, dtype, pass } = *request;
    let dtype = dtype.dtype();
    let x = random::floats(&[batch, height, width, inputs], dtype, 1)?;
    let w = random::floats(&[outputs, kernel, kernel, inputs / groups], dtype, 2)?;
    let options =
        Options { stride: [stride; 2], padding: [kernel / 2; 2], groups, ..Options::<2>::default() };
    let dy = random::floats(&[batch, request.target(height), request.target(width), outputs], dtype, 3)?;
    median(Budget { calls: 5, seconds: 0.5 }, || {
        let (before, timed) = match pass {
            Pass::Forward => (Vec::new(), vec![conv2d(&x, &w, options)?]),
            Pass::InputGradient => {
                fallible_vjp(|x| Ok(vec![conv2d(&x[0], &w, options)?]), from_ref(&x), from_ref(&dy))?
            }
            Pass::WeightGradient => {
                fallible_vjp(|w| Ok(vec![conv2d(&x, &w[0], options)?]), from_ref(&w), from_ref(&dy))?
            }
        };
        Ok(Call { before, timed })
    })
}
