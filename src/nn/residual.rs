//! The residual stream of a decoder.

use mlx_rs::Array;

use super::{Result, RmsNorm};

/// `[..., hidden]`, to which every layer adds its output. The last addition waits for the norm that follows
/// it: both are one pass over memory, forward and backward.
#[derive(Debug, Clone)]
pub struct Residual {
    sum: Array,
    delta: Option<Array>,
}

impl Residual {
    /// Starts with `x`.
    #[must_use]
    pub fn new(x: Array) -> Self {
        Self { sum: x, delta: None }
    }

    /// As `into_parts` gave it.
    #[must_use]
    pub fn from_parts(parts: &[Array]) -> Option<Self> {
        let (sum, delta) = parts.split_first()?;
        Some(Self { sum: sum.clone(), delta: delta.first().cloned() })
    }

    /// The sum, and the last addition where it waits.
    #[must_use]
    pub fn into_parts(self) -> Vec<Array> {
        std::iter::once(self.sum).chain(self.delta).collect()
    }

    /// Adds the output of a layer.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add(&mut self, delta: Array) -> Result<()> {
        if let Some(waiting) = self.delta.replace(delta) {
            self.sum = self.sum.add(waiting)?;
        }
        Ok(())
    }

    /// The norm of the sum so far.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn normed(&mut self, norm: &RmsNorm) -> Result<Array> {
        let Some(delta) = self.delta.take() else { return norm.forward(&self.sum) };
        let (sum, normed) = norm.forward_residual(&self.sum, &delta)?;
        self.sum = sum;
        Ok(normed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;
    use crate::kernels::norm::Rms;

    #[test]
    fn every_addition_counts_once() {
        let norm = RmsNorm::new(2, Rms { eps: 0.0, offset: 0.0 }).unwrap();
        let vector = |x: f32, y: f32| Array::from_slice(&[x, y], &[1, 2]);
        let mut residual = Residual::new(vector(1.0, 0.0));
        residual.add(vector(1.0, 1.0)).unwrap();
        residual.add(vector(1.0, 3.0)).unwrap();
        for _ in 0..2 {
            let normed = residual.normed(&norm).unwrap();
            eval([&normed]).unwrap();
            // (3, 4) over its root mean square.
            let root = 12.5_f32.sqrt();
            for (x, expected) in normed.as_slice::<f32>().iter().zip([3.0 / root, 4.0 / root]) {
                assert!((x - expected).abs() < 1e-6);
            }
        }
    }
}
