//! Scales of small groups of weights, found by trying some and solving for the best in between.
//!
//! The searches are those of llama.cpp's quantizers (`make_qkx3_quants`, `make_qx_quants` and `make_qp_quants`, MIT
//! licence): a scale is tried for some stretches of the range, the weights are rounded with it, and the scale that fits
//! these codes best, by weighted least squares, is kept if it is better than those before.

/// Numbers that are summed side by side, which a compiler turns into vector instructions.
const LANES: usize = 8;

/// Below this, a group counts as zero.
const SMALLEST: f32 = 1e-15;

/// `x ≈ scale·code − min`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// Rounds to the nearest whole number, ties to even; for numbers below 2²².
pub(super) fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// Sums that least squares needs, over the codes of a group.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    l: f32,
    ll: f32,
    xl: f32,
}

/// Sums `f(i)` over `0..n`, three numbers at a time.
fn sum_lanes(n: usize, f: impl Fn(usize) -> [f32; 3]) -> [f32; 3] {
    let mut lanes = [[0.0_f32; LANES]; 3];
    for start in (0..n).step_by(LANES) {
        for lane in 0..LANES {
            let parts = f(start + lane);
            for (sum, part) in lanes.iter_mut().zip(parts) {
                sum[lane] += part;
            }
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// Fits codes from 0 to `levels` to `x`, with the squared errors weighted by `w`. With `below_zero`, the smallest value
/// is at most 0, so that `min` is not negative.
pub(super) fn fit_affine<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    levels: f32,
    below_zero: bool,
) -> Affine {
    const STEPS: i32 = 36;
    let (mut least, most) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
    if below_zero {
        least = least.min(0.0);
    }
    if most - least < SMALLEST {
        return Affine { scale: 0.0, min: -least };
    }
    let [sw, sx, sxx] = sum_lanes(N, |i| [w[i], w[i] * x[i], w[i] * x[i] * x[i]]);
    let mut best = Affine { scale: (most - least) / levels, min: -least };
    let mut error = {
        let inverse = levels / (most - least);
        let off =
            |i: usize| best.scale * nearest(inverse * (x[i] - least)).clamp(0.0, levels) - best.min - x[i];
        sum_lanes(N, |i| [w[i] * off(i) * off(i), 0.0, 0.0])[0]
    };
    for step in 0..=STEPS {
        // From the smallest value of the best fit so far, which leaves out what counts little.
        let least = -best.min;
        let inverse = (levels - 0.9 + 0.05 * step as f32) / (most - least);
        let [l, ll, xl] = sum_lanes(N, |i| {
            let code = nearest(inverse * (x[i] - least)).clamp(0.0, levels);
            let weighted = w[i] * code;
            [weighted, weighted * code, weighted * x[i]]
        });
        let sums = Sums { l, ll, xl };
        let Some((found, gained)) = solve(sums, sw, sx, below_zero) else { continue };
        let here = sxx - gained;
        if here < error {
            (best, error) = (found, here);
        }
    }
    best
}

/// The least squares solution for given codes, and by how much it lowers the error of `x ≈ 0`.
fn solve(Sums { l, ll, xl }: Sums, sw: f32, sx: f32, below_zero: bool) -> Option<(Affine, f32)> {
    let determinant = sw * ll - l * l;
    if determinant <= 0.0 {
        return None;
    }
    let scale = (sw * xl - sx * l) / determinant;
    let min = (ll * sx - l * xl) / determinant;
    if below_zero && min > 0.0 {
        let scale = xl / ll;
        return Some((Affine { scale, min: 0.0 }, scale * xl));
    }
    Some((Affine { scale, min: -min }, scale * xl + min * sx))
}

/// The scale of codes from `−levels` to `levels − 1` for `x`, with the squared errors weighted by `w`; it is negative where
/// the largest weight is positive.
pub(super) fn fit_symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], levels: f32) -> f32 {
    let extreme = x.iter().fold(0.0_f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    if extreme.abs() < SMALLEST {
        return 0.0;
    }
    let (mut scale, mut best) = (0.0, 0.0);
    // The whole range first, then narrower and wider ones.
    for step in (0..=0).chain(-9..=-1).chain(1..=9) {
        let inverse = -(levels + 0.1 * step as f32) / extreme;
        let [xl, ll, _] = sum_lanes(N, |i| {
            let code = nearest(inverse * x[i]).clamp(-levels, levels - 1.0);
            let weighted = w[i] * code;
            [weighted * x[i], weighted * code, 0.0]
        });
        if ll > 0.0 && xl * xl > best * ll {
            (scale, best) = (xl / ll, xl * xl / ll);
        }
    }
    if scale == 0.0 { -extreme / levels } else { scale }
}

/// The scale and the codes from 0 to `levels` of numbers that are not negative, with squared errors weighted by `w`.
pub(super) fn fit_positive<const N: usize>(x: &[f32; N], w: &[f32; N], levels: f32) -> (f32, [u8; N]) {
    let most = x.iter().copied().fold(0.0, f32::max);
    if most < SMALLEST {
        return (0.0, [0; N]);
    }
    let codes_of = |inverse: f32| x.map(|x| nearest(inverse * x).clamp(0.0, levels));
    let error = |inverse: f32| {
        let off = x.iter().zip(codes_of(inverse)).map(|(x, code)| x - code / inverse);
        off.zip(w).map(|(off, w)| w * off * off).sum::<f32>()
    };
    let mut inverse = levels / most;
    let mut least = error(inverse);
    for step in (-4..=-1).chain(1..=4) {
        let other = (levels + 0.1 * step as f32) / most;
        let here = error(other);
        if here < least {
            (inverse, least) = (other, here);
        }
    }
    let mut codes = codes_of(inverse);
    let term = |i: usize, code: f32| (w[i] * x[i] * code, w[i] * code * code);
    let (mut xl, mut ll) = (0..N).map(|i| term(i, codes[i])).fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    // One code at a time, with the scale that fits all others.
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (own_xl, own_ll) = term(i, codes[i]);
            let (xl_others, ll_others) = (xl - own_xl, ll - own_ll);
            if xl_others <= 0.0 || ll_others <= 0.0 {
                continue;
            }
            let code = nearest((x[i] * ll_others / xl_others).min(levels)).max(0.0);
            let (new_xl, new_ll) = term(i, code);
            let (new_xl, new_ll) = (xl_others + new_xl, ll_others + new_ll);
            // Strictly better, and so another code.
            if new_xl * new_xl * ll > xl * xl * new_ll {
                (codes[i], xl, ll, changed) = (code, new_xl, new_ll, true);
            }
        }
        if !changed {
            break;
        }
    }
    (if ll > 0.0 { xl / ll } else { 0.0 }, codes.map(|code| code as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave<const N: usize>(offset: f32) -> [f32; N] {
        std::array::from_fn(|i| (i as f32 * 1.7 + offset).sin() * 0.3 + 0.05)
    }

    fn affine_error<const N: usize>(x: &[f32; N], w: &[f32; N], fit: Affine, levels: f32) -> f32 {
        let code = |x: f32| ((x + fit.min) / fit.scale).round().clamp(0.0, levels);
        x.iter().zip(w).map(|(&x, w)| w * (fit.scale * code(x) - fit.min - x).powi(2)).sum()
    }

    #[test]
    fn numbers_on_a_grid_are_found() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.25 * (i * 7 % 16) as f32 - 1.5);
        let fit = fit_affine(&x, &[1.0; 32], 15.0, true);
        assert!((fit.scale - 0.25).abs() < 1e-6 && (fit.min - 1.5).abs() < 1e-6, "{fit:?}");
        let x: [f32; 16] = std::array::from_fn(|i| -0.5 * ((i * 5 % 16) as f32 - 8.0));
        assert!((fit_symmetric(&x, &[1.0; 16], 8.0) + 0.5).abs() < 1e-6);
        let x: [f32; 8] = std::array::from_fn(|i| 3.0 * (i * 9 % 64) as f32);
        let (scale, codes) = fit_positive(&x, &[1.0; 8], 63.0);
        assert!((scale - 3.0).abs() < 1e-5, "{scale}");
        assert_eq!(codes, std::array::from_fn(|i| (i * 9 % 64) as u8));
    }

    #[test]
    fn a_search_is_better_than_the_whole_range_where_it_counts() {
        let x = wave::<32>(0.4);
        let w: [f32; 32] = std::array::from_fn(|i| if i % 4 == 0 { 10.0 } else { 0.1 });
        let (least, most) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        let whole = Affine { scale: (most - least) / 15.0, min: -least };
        let fit = fit_affine(&x, &w, 15.0, true);
        assert!(affine_error(&x, &w, fit, 15.0) < 0.7 * affine_error(&x, &w, whole, 15.0));
    }

    #[test]
    fn zeros_and_constants_have_a_scale_of_zero() {
        assert_eq!(fit_affine(&[0.0; 32], &[1.0; 32], 15.0, true), Affine { scale: 0.0, min: -0.0 });
        assert_eq!(fit_affine(&[-2.0; 32], &[1.0; 32], 15.0, false), Affine { scale: 0.0, min: 2.0 });
        assert_eq!(fit_symmetric(&[0.0; 16], &[1.0; 16], 32.0).to_bits(), 0);
        assert_eq!(fit_positive(&[0.0; 8], &[1.0; 8], 63.0), (0.0, [0; 8]));
        // Weights of nothing leave the whole range.
        assert!((fit_symmetric(&[1.0; 16], &[0.0; 16], 32.0) + 1.0 / 32.0).abs() < 1e-9);
    }
}
