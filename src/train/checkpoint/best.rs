//! The parameters of the lowest validation loss.

use crate::params::Tensors;

/// Trained parameters with the lowest validation loss.
#[derive(Debug, Clone)]
pub struct BestParameters {
    /// Number of steps taken before the evaluation.
    pub step: u64,
    /// Validation loss, for SFT in nats per target token.
    pub loss: f64,
    /// The trained parameters.
    pub parameters: Tensors,
}

impl BestParameters {
    /// Replaces `best` by `parameters` if `loss` is lower. The untrained model (step 0) is never the best.
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
