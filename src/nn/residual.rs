//! The residual stream of a transformer.

use mlx_rs::Array;

use super::{Result, RmsNorm};

/// The residual stream `[..., hidden]`. The last addition is deferred to the norm that follows it, so that
/// both take one pass over memory, forward and backward.
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

    /// The reverse of [`into_parts`](Self::into_parts); `None` without parts.
    #[must_use]
    pub fn from_parts(parts: &[Array]) -> Option<Self> {
        let (sum, delta) = parts.split_first()?;
        Some(Self { sum: sum.clone(), delta: delta.first().cloned() })
    }

    /// Returns the sum and, if there is one, the deferred addition.
    #[must_use]
    pub fn into_parts(self) -> Vec<Array> {
        std::iter::once(self.sum).chain(self.delta).collect()
    }

    /// Returns the sum of all additions.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn into_sum(self) -> Result<Array> {
        match self.delta {
            Some(delta) => self.sum.add(delta),
            None => Ok(self.sum),
        }
    }

    /// Adds the output of a layer.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn add(&mut self, delta: Array) -> Result<()> {
        if let Some(waiting) = self.delta.replace(delta) {
            self.sum = self.sum.add(waiting)?;
        }
        Ok(())
    }

    /// Returns the norm of the stream.
    ///
    /// # Errors
    /// Incompatible shapes.
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
    use crate::kernels::norm::RmsNormOptions;

    #[test]
    fn every_addition_counts_once() {
        let norm = RmsNorm::new(2, RmsNormOptions { eps: 0.0, offset: 0.0 }).unwrap();
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
