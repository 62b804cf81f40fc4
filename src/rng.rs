//! Explicit random keys: every draw is a pure function of the seed and a path of integers (purpose, step, layer),
//! so that a resumed run draws the same numbers.

use mlx_rs::{Array, random};

use crate::Result;

/// Purpose of random numbers; keys of different purposes never coincide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial values of model parameters.
    Init = 1,
    /// Dropout masks.
    Dropout = 2,
    /// Initial values of adapters.
    Adapter = 3,
    /// Embedding noise.
    Noise = 4,
    /// Random projections of gradients.
    Sketch = 5,
    /// Rounding of weights.
    Rounding = 6,
    /// Order of calibration rows.
    Calibration = 7,
    /// Division of rows that a coreset is chosen from.
    Coreset = 8,
    /// Samples of a model that it is trained on.
    Rollout = 9,
}

/// Returns the PRNG key of `purpose` at `path`, for example step and layer.
///
/// # Errors
/// Errors from MLX.
pub fn key(seed: u64, purpose: Purpose, path: &[u64]) -> Result<Array> {
    let numbers = [seed, purpose as u64].into_iter().chain(path.iter().copied());
    Ok(random::key(digest(numbers))?)
}

/// Returns the [`key`] at each of `paths`, `[paths, 2]`.
pub fn keys<const N: usize>(seed: u64, purpose: Purpose, paths: impl Iterator<Item = [u64; N]>) -> Array {
    let words = |path| {
        let state = digest([seed, purpose as u64].into_iter().chain(path));
        [(state >> 32) as u32, state as u32]
    };
    let words: Vec<[u32; 2]> = paths.map(words).collect();
    Array::from_slice(words.as_flattened(), &[words.len() as i32, 2])
}

/// Hash of `numbers` that depends on their order and is stable across versions.
pub fn digest(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, |state, number| mix(state ^ mix(number)))
}

/// The output function of [SplitMix64](https://doi.org/10.1145/2714064.2660195), a bijection on 64 bits.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outputs_of_splitmix64() {
        // The reference implementation seeded with 0 returns these for its first two states.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn order_of_the_path_matters() {
        let bits = |path: &[u64]| {
            let key = key(0, Purpose::Dropout, path).unwrap();
            key.as_slice::<u32>().to_vec()
        };
        assert_eq!(bits(&[1, 2]), bits(&[1, 2]));
        assert_ne!(bits(&[1, 2]), bits(&[2, 1]));
        let both = keys(0, Purpose::Dropout, [[1, 2], [2, 1]].into_iter());
        assert_eq!(both.as_slice::<u32>(), [bits(&[1, 2]), bits(&[2, 1])].concat());
    }
}
