//! The parameters of the lowest validation loss.

use crate::params::Tensors;

/// The trained weights of the lowest validation loss.
#[derive(Debug, Clone)]
pub struct BestParameters {
    /// Steps taken before the evaluation.
    pub step: u64,
    /// Its loss, in nats per target token.
    pub loss: f64,
    /// The trained parameters.
    pub parameters: Tensors,
}

impl BestParameters {
    /// Takes over `parameters` as the better ones where `loss` is lower than that of `best`. The untouched model
    /// (step 0) is no candidate.
    pub fn update(best: &mut Option<Self>, step: u64, loss: f64, parameters: &Tensors) {
        if step > 0 && best.as_ref().is_none_or(|best| loss < best.loss) {
            *best = Some(Self { step, loss, parameters: parameters.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_the_best_and_the_untouched_model_is_none() {
        let mut best = None;
        for (step, loss) in [(0, 1.0), (2, 3.0), (4, 2.0), (6, 2.0), (8, 2.5)] {
            BestParameters::update(&mut best, step, loss, &Tensors::new());
        }
        assert_eq!(best.map(|best| (best.step, best.loss)), Some((4, 2.0)));
    }
}
