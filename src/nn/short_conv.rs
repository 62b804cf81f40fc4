//! The gated short convolution of [LFM2](https://arxiv.org/abs/2511.23404).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{concatenate, zeros_dtype};

use super::layer::{Linears, Mixer, named};
use super::scaling::{Flow, Scaling};
use super::{Context, ConvState, Linear, Result, Segments};
use crate::kernels::conv::{Options, conv1d};

/// `out_proj(c · conv(b · x))` with `b, c, x = in_proj(input)` and a causal depthwise convolution.
#[derive(Debug, Clone, ModuleParameters)]
pub struct ShortConv {
    /// Projection of `hidden` to `b`, `c` and `x`.
    #[param]
    pub in_proj: Linear,
    /// Depthwise convolution.
    #[param]
    pub conv: DepthwiseConv,
    /// Output projection.
    #[param]
    pub out_proj: Linear,
}

/// Causal depthwise convolution.
#[derive(Debug, Clone, ModuleParameters)]
pub struct DepthwiseConv {
    /// `[hidden, 1, taps]`; the last tap is that of the current position.
    #[param]
    pub weight: Param<Array>,
    /// `[hidden]`.
    #[param]
    pub bias: Param<Option<Array>>,
}

impl ShortConv {
    /// Creates zero-initialized layers.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, taps: i32, bias: bool) -> Result<Self> {
        let conv_bias = if bias { Some(Array::zeros::<f32>(&[hidden])?) } else { None };
        Ok(Self {
            in_proj: Linear::new(hidden, 3 * hidden, bias)?,
            conv: DepthwiseConv {
                weight: Param::new(Array::zeros::<f32>(&[hidden, 1, taps])?),
                bias: Param::new(conv_bias),
            },
            out_proj: Linear::new(hidden, hidden, bias)?,
        })
    }
}

impl Mixer for ShortConv {
    fn forward(&self, x: &Array, context: Context) -> Result<Array> {
        let parts = self.in_proj.forward(x)?.split_equal(3, -1)?;
        let [b, c, x] = &parts[..] else { return Err(Exception::custom("three parts expected")) };
        let bx = b.multiply(x)?;
        let y = if let Context::Each(sequences) = context {
            sequences.map(|cache, columns| {
                self.conv.forward(&bx.try_index((.., columns))?, Some(cache.conv()?), None)
            })?
        } else {
            let (state, segments) = context.conv()?;
            self.conv.forward(&bx, state, segments)?
        };
        self.out_proj.forward(&c.multiply(y)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        named([("in_proj", &mut self.in_proj), ("out_proj", &mut self.out_proj)])
    }

    fn flow(&self) -> Flow {
        // The output is linear in `c`.
        let hidden = self.out_proj.size().0 as usize;
        let rows = (hidden..2 * hidden).collect();
        Flow {
            readers: vec!["in_proj".to_owned()],
            scalings: vec![Scaling::between("in_proj", rows, "out_proj")],
        }
    }
}

impl DepthwiseConv {
    /// `x`: `[batch, time, hidden]` → same shape. The sequence is padded on the left with `state`, or with zeros.
    fn forward(
        &self,
        x: &Array,
        state: Option<&mut ConvState>,
        segments: Option<&Segments>,
    ) -> Result<Array> {
        let (batch, time, hidden, taps) = (x.dim(0), x.dim(1), x.dim(2), self.weight.dim(-1));
        let last = match state.as_ref().and_then(|state| state.last.clone()) {
            Some(last) => last,
            None => zeros_dtype(&[batch, taps - 1, hidden], x.dtype())?,
        };
        let padded = concatenate(&[&last, x], 1)?;
        if let Some(state) = state {
            state.last = Some(padded.try_index((.., time..))?);
        }
        let sum = if let Some(segments) = segments {
            self.within(segments, &padded, time)?
        } else {
            let weight = self.weight.reshape(&[hidden, taps, 1])?;
            let groups = hidden.unsigned_abs() as usize;
            conv1d(&padded, &weight, Options { groups, ..Options::default() })?
        };
        match &*self.bias {
            Some(bias) => sum.add(bias),
            None => Ok(sum),
        }
    }

    /// The same for packed sequences: tap by tap, each masked to positions of the same sequence.
    fn within(&self, segments: &Segments, padded: &Array, time: i32) -> Result<Array> {
        let taps = self.weight.dim(-1);
        let mut sum: Option<Array> = None;
        for tap in 0..taps {
            let weight = self.weight.try_index((.., 0, tap))?;
            let mut term = padded.try_index((.., tap..tap + time))?.multiply(weight)?;
            if taps - 1 - tap > 0 {
                term = term.multiply(segments.reaches(taps - 1 - tap, padded.dtype())?)?;
            }
            sum = Some(match sum {
                Some(sum) => sum.add(term)?,
                None => term,
            });
        }
        sum.ok_or_else(|| Exception::custom("a convolution without taps"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn sees_the_positions_before_across_calls() {
        let weight = Array::from_slice(&[100.0_f32, 10.0, 1.0], &[1, 1, 3]);
        let taps = DepthwiseConv { weight: Param::new(weight), bias: Param::new(None) };
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[1, 4, 1]);
        let whole = taps.forward(&x, None, None).unwrap();
        let mut state = ConvState::default();
        let mut parts = Vec::new();
        for range in [0..2, 2..3, 3..4] {
            parts.push(taps.forward(&x.try_index((.., range)).unwrap(), Some(&mut state), None).unwrap());
        }
        let parts = concatenate(&parts, 1).unwrap();
        eval([&whole, &parts]).unwrap();
        for y in [whole, parts] {
            assert_eq!(y.to_vec_exact::<f32>().unwrap(), [1.0, 12.0, 123.0, 234.0]);
        }
    }

    #[test]
    fn texts_in_one_row_do_not_see_each_other() {
        let weight = Array::from_slice(&[100.0_f32, 10.0, 1.0], &[1, 1, 3]);
        let taps = DepthwiseConv { weight: Param::new(weight), bias: Param::new(None) };
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0, 5.0], &[1, 5, 1]);
        let segments = Segments::new(&[0, 0, 2, 2, 2], 1, 5).unwrap();
        let y = taps.forward(&x, None, Some(&segments)).unwrap();
        eval([&y]).unwrap();
        assert_eq!(y.to_vec_exact::<f32>().unwrap(), [1.0, 12.0, 3.0, 34.0, 345.0]);
    }
}
