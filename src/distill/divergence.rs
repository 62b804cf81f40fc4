//! Divergences of a student `q` from a teacher `p`, over the last axis.
//!
//! | | formula |
//! |---|---|
//! | forward KL | `Σ p·log(p/q)` |
//! | reverse KL ([MiniLLM](https://arxiv.org/abs/2306.08543)) | `Σ q·log(q/p)` |
//! | generalized Jensen–Shannon ([GKD](https://arxiv.org/abs/2306.13649)) | `β·KL(p ‖ m) + (1-β)·KL(q ‖ m)`, `m = β·p + (1-β)·q` |
//! | skewed KL ([DistiLLM](https://arxiv.org/abs/2402.03898)) | `KL(p ‖ λ·p + (1-λ)·q)` |

use mlx_rs::Array;
use mlx_rs::ops::logaddexp;

use crate::nn;

/// A divergence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Divergence {
    /// Forward KL.
    Forward,
    /// Reverse KL.
    Reverse,
    /// Generalized Jensen–Shannon.
    JensenShannon {
        /// Weight β of the teacher.
        beta: f32,
    },
    /// Skewed forward KL.
    Skewed {
        /// Weight λ of the teacher in the mixture.
        skew: f32,
    },
}

impl Divergence {
    /// Computes the divergence in nats from log-probabilities `[..., n]` of teacher and student, `[...]`.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub(super) fn of(self, teacher: &Array, student: &Array) -> nn::Result<Array> {
        match self {
            Self::Forward => kl(teacher, student),
            Self::Reverse => kl(student, teacher),
            Self::JensenShannon { beta } => {
                let mixture = mixture(teacher, student, beta)?;
                let weighted = |x: Array, weight: f32| x.multiply(Array::from_f32(weight));
                weighted(kl(teacher, &mixture)?, beta)?.add(weighted(kl(student, &mixture)?, 1.0 - beta)?)
            }
            Self::Skewed { skew } => kl(teacher, &mixture(teacher, student, skew)?),
        }
    }
}

/// `Σ p·log(p/q)` of log-probabilities.
fn kl(p: &Array, q: &Array) -> nn::Result<Array> {
    p.exp()?.multiply(p.subtract(q)?)?.sum_axis(-1, false)
}

/// `log(weight·p + (1-weight)·q)` of log-probabilities.
fn mixture(p: &Array, q: &Array, weight: f32) -> nn::Result<Array> {
    logaddexp(p.add(Array::from_f32(weight.ln()))?, q.add(Array::from_f32((1.0 - weight).ln()))?)
}

#[cfg(test)]
mod tests {
    use mlx_rs::transforms::value_and_grad_with_argnums;

    use super::*;

    const TEACHER: [f64; 5] = [2.0, 0.5, -1.0, 0.1, -3.0];
    const STUDENT: [f64; 5] = [1.0, 1.5, -0.5, 0.0, 0.7];

    fn log_softmax(x: &[f64]) -> Vec<f64> {
        let total = x.iter().map(|x| x.exp()).sum::<f64>().ln();
        x.iter().map(|x| x - total).collect()
    }

    /// The definitions above, in f64.
    fn expected(divergence: Divergence, teacher: &[f64], student: &[f64]) -> f64 {
        let probabilities = |x: &[f64]| log_softmax(x).into_iter().map(f64::exp).collect::<Vec<_>>();
        let (p, q) = (probabilities(teacher), probabilities(student));
        let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        let mix =
            |weight: f64| p.iter().zip(&q).map(|(p, q)| weight * p + (1.0 - weight) * q).collect::<Vec<_>>();
        match divergence {
            Divergence::Forward => kl(&p, &q),
            Divergence::Reverse => kl(&q, &p),
            Divergence::JensenShannon { beta } => {
                let (beta, mixture) = (f64::from(beta), mix(beta.into()));
                beta * kl(&p, &mixture) + (1.0 - beta) * kl(&q, &mixture)
            }
            Divergence::Skewed { skew } => kl(&p, &mix(skew.into())),
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_definitions() {
        for divergence in [
            Divergence::Forward,
            Divergence::Reverse,
            Divergence::JensenShannon { beta: 0.25 },
            Divergence::Skewed { skew: 0.125 },
        ] {
            let array = |x: &[f64]| Array::from_slice(&x.iter().map(|&x| x as f32).collect::<Vec<_>>(), &[5]);
            let teacher = array(&log_softmax(&TEACHER));
            let loss = |x: &[Array]| {
                let student = x[0].subtract(x[0].logsumexp_axis(-1, true)?)?;
                Ok(vec![divergence.of(&teacher, &student)?])
            };
            let (value, gradient) = value_and_grad_with_argnums(loss, &[0][..])(&[array(&STUDENT)]).unwrap();
            let value = f64::from(value[0].item_exact::<f32>());
            assert!((value - expected(divergence, &TEACHER, &STUDENT)).abs() < 1e-6, "{divergence:?}");
            for (i, &found) in gradient[0].as_slice::<f32>().iter().enumerate() {
                let at = |step: f64| {
                    let mut student = STUDENT;
                    student[i] += step;
                    expected(divergence, &TEACHER, &student)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((f64::from(found) - slope).abs() < 1e-6, "{divergence:?} {i}: {found}, {slope}");
            }
        }
    }

    #[test]
    fn certainty_is_finite() {
        let certain = Array::from_slice(&[0.0_f32, -200.0], &[2]);
        let doubtful = Array::from_slice(&[-0.7_f32, -0.7], &[2]);
        for divergence in [Divergence::JensenShannon { beta: 0.5 }, Divergence::Skewed { skew: 0.1 }] {
            for (p, q) in [(&certain, &doubtful), (&doubtful, &certain), (&certain, &certain)] {
                assert!(divergence.of(p, q).unwrap().item_exact::<f32>().is_finite());
            }
        }
    }
}
