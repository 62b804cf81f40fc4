//! Converting an adapter to a single rank and scale, for formats that support no others.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::ops::concatenate;

use crate::adapters::adapter::{Adapter, AdapterLayer};
use crate::{Result, nn};

/// Layers with a common rank and scale.
pub(super) struct UniformRank {
    pub(super) rank: i32,
    pub(super) scale: f32,
    pub(super) layers: BTreeMap<String, AdapterLayer>,
}

/// Returns an equivalent adapter with a single rank, the largest, and a single scale, the most frequent.
/// Smaller matrices are padded with zeros; other scales are folded into `B`, in its dtype.
///
/// # Errors
/// Errors from MLX.
pub(super) fn to_uniform_rank(adapter: &Adapter) -> Result<UniformRank> {
    let rank = adapter.layers.values().map(AdapterLayer::rank).max().unwrap_or(1);
    let scales = adapter.layers.values().map(|layer| layer.scale);
    // A scale of zero would leave no way to write any other.
    let scale = most_frequent(scales.filter(|&scale| scale != 0.0)).unwrap_or(1.0);
    let even = |(path, layer): (&String, &AdapterLayer)| {
        let b = match layer.scale / scale {
            1.0 => layer.b.clone(),
            factor => layer.b.multiply(Array::from_f32(factor).as_dtype(layer.b.dtype())?)?,
        };
        let (a, b) = (pad(&layer.a, 1, rank)?, pad(&b, 0, rank)?);
        Ok((path.clone(), AdapterLayer { a, b, m: layer.m.clone(), scale }))
    };
    let layers = adapter.layers.iter().map(even).collect::<nn::Result<_>>()?;
    Ok(UniformRank { rank, scale, layers })
}

/// Returns the most frequent value; the smallest of equally frequent ones.
pub(super) fn most_frequent(values: impl Iterator<Item = f32>) -> Option<f32> {
    let mut counts: BTreeMap<u32, (f32, usize)> = BTreeMap::new();
    for value in values {
        counts.entry(value.to_bits()).or_insert((value, 0)).1 += 1;
    }
    counts.into_values().rev().max_by_key(|&(_, count)| count).map(|(value, _)| value)
}

/// Pads `x` with zeros to `size` along `axis`.
fn pad(x: &Array, axis: i32, size: i32) -> nn::Result<Array> {
    let missing = size - x.dim(axis);
    if missing == 0 {
        return Ok(x.clone());
    }
    let mut shape = x.shape().to_vec();
    shape[axis as usize] = missing;
    concatenate(&[x.clone(), Array::zeros::<f32>(&shape)?.as_dtype(x.dtype())?], axis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    fn layer(rank: i32, scale: f32) -> AdapterLayer {
        let count = |n: i32| Array::arange::<_, f32>(None, n, None).unwrap();
        let a = count(3 * rank).reshape(&[3, rank]).unwrap();
        let b = count(2 * rank).reshape(&[rank, 2]).unwrap();
        AdapterLayer { a, b, m: None, scale }
    }

    fn product(layer: &AdapterLayer) -> Vec<f32> {
        let x = layer.a.matmul(&layer.b).unwrap().multiply(Array::from_f32(layer.scale)).unwrap();
        eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn the_function_stays() {
        let layers: BTreeMap<String, AdapterLayer> =
            [("x".into(), layer(1, 2.0)), ("y".into(), layer(4, 0.5)), ("z".into(), layer(2, 2.0))].into();
        let adapter = Adapter { layers, ..Adapter::default() };
        let even = to_uniform_rank(&adapter).unwrap();
        assert_eq!((even.rank, even.scale), (4, 2.0));
        for (path, layer) in &even.layers {
            assert_eq!((layer.a.shape(), layer.b.shape()), (&[3, 4][..], &[4, 2][..]));
            assert_eq!(product(layer), product(&adapter.layers[path]), "{path}");
        }
    }

    #[test]
    fn the_most_frequent_wins_and_the_first_of_equals() {
        assert_eq!(most_frequent([2.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(most_frequent([2.0, 1.0].into_iter()), Some(1.0));
        assert_eq!(most_frequent([].into_iter()), None);
    }
}
