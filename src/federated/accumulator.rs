//! Weighted averages of updates that come one by one: the memory is that of one model in float64, however many come.

use kernels::Isa;
use kernels::updates::{Values, ValuesMut, accumulate, is_finite, scale};

use crate::{Error, Result};

/// `Σ weightᵢ·updateᵢ / Σ weightᵢ`
#[derive(Debug, Clone)]
pub struct Accumulator {
    names: Vec<String>,
    sums: Vec<Vec<f64>>,
    weight: f64,
    count: u64,
}

impl Accumulator {
    /// Sums of tensors of these names and lengths.
    #[must_use]
    pub fn new(tensors: impl IntoIterator<Item = (String, usize)>) -> Self {
        let (names, sums) = tensors.into_iter().map(|(name, len)| (name, vec![0.0; len])).unzip();
        Self { names, sums, weight: 0.0, count: 0 }
    }

    /// Adds the update of `client`, or none of it.
    ///
    /// # Errors
    /// Another number or length of tensors, a number that is not finite, a weight that is not positive.
    pub fn add(&mut self, client: &str, update: &[Values], weight: f64) -> Result<()> {
        check_weight(client, weight)?;
        if update.len() != self.sums.len() {
            let (found, wanted) = (update.len(), self.sums.len());
            return Err(Error::Config(format!("{client}: {found} tensors, expected {wanted}")));
        }
        let isa = Isa::current();
        for ((name, sum), values) in self.names.iter().zip(&self.sums).zip(update) {
            if values.len() != sum.len() {
                let (found, wanted) = (values.len(), sum.len());
                return Err(Error::Config(format!(
                    "{client}: {name} has {found} elements, expected {wanted}"
                )));
            }
            if !is_finite(isa, *values) {
                let index = values.first_non_finite().unwrap_or_default();
                return Err(Error::Config(format!(
                    "{client}: {name} has a number that is not finite, at {index}; the update is not counted"
                )));
            }
        }
        for (sum, values) in self.sums.iter_mut().zip(update) {
            accumulate(isa, sum, *values, weight);
        }
        self.weight += weight;
        self.count += 1;
        Ok(())
    }

    /// Number of updates so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of their weights.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The sum of tensor number `index` so far, not divided by the weights.
    #[must_use]
    pub fn sum(&self, index: usize) -> &[f64] {
        &self.sums[index]
    }

    /// Writes the average, rounded to the formats of `outputs`.
    ///
    /// # Errors
    /// No update so far.
    pub fn average(&self, outputs: Vec<ValuesMut>) -> Result<()> {
        if self.count == 0 {
            return Err(Error::Config("no update was added, so that there is no average".into()));
        }
        for (sum, out) in self.sums.iter().zip(outputs) {
            scale(Isa::current(), sum, self.weight.recip(), out);
        }
        Ok(())
    }
}

/// Checks the weight of one client.
///
/// # Errors
/// One that is not positive and finite.
pub(super) fn check_weight(client: &str, weight: f64) -> Result<()> {
    if weight.is_finite() && weight > 0.0 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{client}: the weight is {weight}, expected a positive number, such as its examples"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_and_refuses_whole_updates() {
        let mut sums = Accumulator::new([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        sums.add("one", &[Values::F32(&[1.0, 2.0]), Values::F32(&[3.0])], 1.0).unwrap();
        let bad = [Values::F32(&[1.0, 2.0]), Values::F32(&[f32::NAN])];
        let message = sums.add("two", &bad, 1.0).unwrap_err().to_string();
        assert!(message.starts_with("two: b has a number that is not finite, at 0"), "{message}");
        sums.add("three", &[Values::F32(&[4.0, 5.0]), Values::F32(&[6.0])], 2.0).unwrap();
        let (mut a, mut b) = ([0.0_f32; 2], [0.0_f32; 1]);
        sums.average(vec![ValuesMut::F32(&mut a), ValuesMut::F32(&mut b)]).unwrap();
        assert_eq!((a, b), ([3.0, 4.0], [5.0]));
    }
}
