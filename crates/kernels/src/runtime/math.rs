//! Branch-free f32 functions that vectorize, accurate to 2 units in the last place unless noted.

/// `exp(x)`; 0 below -87.3, where the result would be subnormal, and infinite above 88.7.
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first of few bits, so that `n` times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting it rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-88.0, 88.8);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Minimax polynomial of (exp(r) - 1 - r) / r² on [-ln2/2, ln2/2].
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // The low bits of `shifted` are n as an integer: a conversion would be checked, number by number.
    let integer = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    // 2ⁿ in two factors, because n = 128 has no exponent of its own.
    let half = integer >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    let y = y * power(half) * power(integer.wrapping_sub(half));
    let y = if x < -87.3 { 0.0 } else { y };
    let y = if x > 88.72 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)`, with a relative error of at most 5e-7.
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    // Taylor series, where the difference below would cancel.
    let near = x * (1.0 + square * (-0.333_333_34 + square * (0.133_333_34 - square * 0.053_968_254)));
    let far = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if x.abs() < 0.25 { near } else { far }
}

/// Probability density and cumulative distribution of the standard normal, the latter with an absolute error of at
/// most 2e-7.
///
/// Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17.
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn normal_pdf_cdf(x: f32) -> (f32, f32) {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let density = DENSITY_AT_0 * exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let mut p = 1.330_274_4;
    p = p * t - 1.821_256;
    p = p * t + 1.781_477_9;
    p = p * t - 0.356_563_78;
    p = p * t + 0.319_381_53;
    let tail = density * p * t;
    (density, if x < 0.0 { tail } else { 1.0 - tail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_close_everywhere() {
        for i in -2000..=2000 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).tanh();
            assert!((f64::from(tanh(x)) - exact).abs() <= 5e-7 * exact.abs(), "{x}: {}", tanh(x));
        }
        assert_eq!((tanh(f32::NEG_INFINITY), tanh(f32::INFINITY)), (-1.0, 1.0));
    }

    #[test]
    fn exp_is_close_everywhere() {
        for i in -8730..8870 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "{x}: {error}");
        }
        assert_eq!((exp(-1000.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(100.0).is_infinite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_close() {
        for i in -2000..2000 {
            let x = i as f32 / 100.0;
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-f64::from(x)).exp())).abs() < 2e-7, "{x}");
        }
    }

    #[test]
    fn normal_distribution_is_close() {
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        // Simpson's rule from -12 in steps of 0.01.
        let mut exact = 0.0;
        for i in -1200..1200 {
            let x = f64::from(i) / 100.0;
            let (ours, cumulative) = normal_pdf_cdf(x as f32);
            assert!((f64::from(ours) - density(x)).abs() < 1e-7, "{x}");
            assert!((f64::from(cumulative) - exact).abs() < 2e-7, "{x}: {cumulative} {exact}");
            exact += (density(x) + 4.0 * density(x + 0.005) + density(x + 0.01)) / 600.0;
        }
    }
}
