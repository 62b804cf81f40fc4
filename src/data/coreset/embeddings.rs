//! Embeddings of rows.

use crate::{Error, Result};

/// A vector per row: its direction from the mean of all rows, of length 1. Hidden states of language models point into
/// similar directions, and tell rows apart only by where they part from the mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    dim: usize,
    /// `[rows, dim]`
    directions: Vec<f32>,
}

impl Embeddings {
    /// The embeddings `values`, `[rows, dim]`, of one row after the other.
    ///
    /// # Errors
    /// [`Error::Dataset`] with the first row that is not finite.
    ///
    /// # Panics
    /// If `values` are no whole rows.
    pub fn new(mut values: Vec<f32>, dim: usize) -> Result<Self> {
        assert!(dim > 0 && values.len().is_multiple_of(dim), "rows of another length");
        let rows = values.len() / dim;
        let mut mean = vec![0.0_f64; dim];
        for (index, row) in values.chunks_exact(dim).enumerate() {
            if !row.iter().all(|x| x.is_finite()) {
                return Err(Error::Dataset(format!(
                    "the embedding of row {} is not finite: the weights of the model may be damaged",
                    index + 1
                )));
            }
            mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / rows as f64);
        }
        for row in values.chunks_exact_mut(dim) {
            let centred: Vec<f64> = row.iter().zip(&mean).map(|(&x, mean)| f64::from(x) - mean).collect();
            let norm = centred.iter().map(|x| x * x).sum::<f64>().sqrt();
            // A row that is the mean has no direction.
            let scale = if norm > 0.0 { norm.recip() } else { 0.0 };
            row.iter_mut().zip(centred).for_each(|(x, centred)| *x = (centred * scale) as f32);
        }
        Ok(Self { dim, directions: values })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directions.len() / self.dim
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directions.is_empty()
    }

    /// The largest difference between two elements in the same place.
    #[cfg(test)]
    pub(crate) fn largest_difference(&self, other: &Self) -> f32 {
        assert_eq!(self.directions.len(), other.directions.len());
        let pairs = self.directions.iter().zip(&other.directions);
        pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
    }

    /// Length of the vectors.
    pub(super) const fn dim(&self) -> usize {
        self.dim
    }

    /// The vectors of `rows`, one after the other.
    pub(super) fn of(&self, rows: &[usize]) -> Vec<f32> {
        rows.iter().flat_map(|&row| &self.directions[row * self.dim..(row + 1) * self.dim]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_from_the_mean() {
        // Mean [1, 1]; the last row is it.
        let embeddings = Embeddings::new(vec![4.0, 5.0, -2.0, -3.0, 1.0, 1.0], 2).unwrap();
        assert_eq!((embeddings.len(), embeddings.dim(), embeddings.is_empty()), (3, 2, false));
        let expected = [0.6, 0.8, -0.6, -0.8, 0.0, 0.0];
        assert!(embeddings.of(&[0, 1, 2]).iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6));
        assert_eq!(embeddings.of(&[1]), embeddings.of(&[0, 1, 2])[2..4]);
    }

    #[test]
    fn values_that_are_not_finite_are_refused_by_row() {
        for wrong in [f32::NAN, f32::INFINITY] {
            let error = Embeddings::new(vec![0.0, 1.0, 2.0, wrong], 2).unwrap_err().to_string();
            assert!(error.starts_with("the embedding of row 2 is not finite"), "{error}");
        }
    }
}
