//! Reductions of a row in an explicit order that vectorizes; the order is the same for every instruction set.

/// Parallel accumulators: two AVX-512 registers, to hide the latency of additions.
const LANES: usize = 32;

/// `Σ aᵢ·bᵢ`
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    fold(lanes, |x, y| x + y)
}

/// `Σ xᵢ`
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn sum(row: &[f32]) -> f32 {
    reduce(row, 0.0, |x, y| x + y)
}

/// Maximum of `row`, ignoring NaN; -∞ if there is none.
#[inline(always)]
#[allow(clippy::inline_always)]
#[must_use]
pub(crate) fn max(row: &[f32]) -> f32 {
    reduce(row, f32::NEG_INFINITY, |x, y| if y > x { y } else { x })
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn reduce(row: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = join(lanes[i], chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, x);
    }
    fold(lanes, join)
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "small integers are exact")]
    fn every_element_counts_once() {
        for len in [0, 1, 31, 32, 33, 100] {
            let row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let ones = vec![1.0; len];
            let expected: f32 = row.iter().sum();
            assert_eq!((sum(&row), dot(&row, &ones)), (expected, expected), "{len}");
            assert_eq!(max(&row), if len == 0 { f32::NEG_INFINITY } else { len as f32 - 1.0 });
        }
        assert_eq!(max(&[-3.0, f32::NAN, -2.0]), -2.0);
    }
}
