//! Operations on the log-probabilities of preference pairs, whose rows alternate: chosen, rejected.

use mlx_rs::Array;
use mlx_rs::ops::{expm1, logaddexp, minimum, split_equal};

use crate::nn;

/// Splits `[rows]` into the chosen and the rejected rows, each `[pairs, 1]`.
pub(super) fn split_pairs(rows: &Array) -> nn::Result<[Array; 2]> {
    let sides = split_equal(rows.reshape(&[-1, 2])?, 2, 1)?;
    <[Array; 2]>::try_from(sides).map_err(|_| mlx_rs::error::Exception::custom("a pair has two rows"))
}

/// Differences between the chosen and the rejected row of each pair: `[rows]` → `[pairs, 1]`.
pub(super) fn margins(rows: &Array) -> nn::Result<Array> {
    let [chosen, rejected] = split_pairs(rows)?;
    chosen.subtract(rejected)
}

/// `-log σ(x) = log(1 + e⁻ˣ)`.
pub(super) fn negative_log_sigmoid(x: &Array) -> nn::Result<Array> {
    logaddexp(x.negative()?, Array::from_f32(0.0))
}

/// `log(p/(1-p))` as a function of `log p`, which is clamped below 0 to keep the odds finite.
pub(super) fn log_odds(log_p: &Array) -> nn::Result<Array> {
    let log_p = minimum(log_p, Array::from_f32(-f32::EPSILON))?;
    log_p.subtract(expm1(&log_p)?.negative()?.log()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    fn values(x: &Array) -> Vec<f32> {
        eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn odds_are_finite_and_exact() {
        let log_p = [0.0_f32, -1e-6, -0.1, -std::f32::consts::LN_2, -5.0, -80.0];
        let odds = values(&log_odds(&Array::from_slice(&log_p, &[6])).unwrap());
        assert!(odds[0].is_finite() && odds[0] >= odds[1]);
        for (&log_p, &odds) in log_p[1..].iter().zip(&odds[1..]) {
            let exact = f64::from(log_p) - (-f64::from(log_p).exp_m1()).ln();
            assert!(
                (f64::from(odds) - exact).abs() < 2e-6 * exact.abs().max(1.0),
                "{log_p}: {odds}, {exact}"
            );
        }
    }

    #[test]
    fn a_far_advantage_stays_finite() {
        let losses = values(&negative_log_sigmoid(&Array::from_slice(&[-1e4_f32, 0.0, 1e4], &[3])).unwrap());
        for (loss, expected) in losses.into_iter().zip([1e4, std::f32::consts::LN_2, 0.0]) {
            assert!((loss - expected).abs() < 1e-6, "{loss}, {expected}");
        }
    }
}
