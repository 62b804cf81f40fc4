//! The state of a text as named tensors, as files hold it, and back.

use std::collections::BTreeMap;

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::zeros_dtype;
use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, ConvState, KvCache, LayerCache};
use super::quantized_cache::{FIRST, OlderPositions, Rows};
use crate::Result;
use crate::kernels::cached_attention::KeyValueBuffers;
use crate::params::Tensors;

/// Dtype and shape of a tensor.
pub type TensorType = (Dtype, Vec<i32>);

/// What a cache holds besides its tensors. It comes from files that nobody vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheLayout {
    layers: Vec<LayerLayout>,
}

/// Numbers of positions of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum LayerLayout {
    /// The last positions are exact, and those before them quantized or no longer stored.
    Kv {
        exact: i32,
        quantized: i32,
        dropped: i32,
    },
    Conv,
}

impl CacheLayout {
    /// Describes `cache`, of one sequence, and returns its tensors, without spare capacity; `None` if a layer has read
    /// nothing.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn of(cache: &Cache) -> Result<Option<(Self, Tensors)>> {
        let (mut layers, mut tensors) = (Vec::new(), Tensors::new());
        for (index, layer) in cache.layers.iter().enumerate() {
            let mut insert = |name: &str, x: Array| tensors.insert(format!("{index}.{name}"), x);
            match layer {
                LayerCache::Conv(ConvState { last: None }) => return Ok(None),
                LayerCache::Conv(ConvState { last: Some(last) }) => {
                    insert("last", last.clone());
                    layers.push(LayerLayout::Conv);
                }
                LayerCache::Kv(KvCache { store, older, .. }) => {
                    let KeyValueBuffers { k: Some(k), v: Some(v), len: 1.., .. } = store else {
                        return Ok(None);
                    };
                    insert("k", k.try_index((.., ..store.len))?);
                    insert("v", v.try_index((.., ..store.len))?);
                    if let Some(OlderPositions { first: Some([k, v]), packed: Some(packed), .. }) = older {
                        insert("first_k", k.clone());
                        insert("first_v", v.clone());
                        for (name, Rows { codes, scales, biases }) in
                            ["older_k", "older_v"].iter().zip(packed)
                        {
                            insert(&format!("{name}.codes"), codes.clone());
                            insert(&format!("{name}.scales"), scales.clone());
                            insert(&format!("{name}.biases"), biases.clone());
                        }
                    }
                    let quantized = older.as_ref().map_or(0, OlderPositions::len);
                    layers.push(LayerLayout::Kv { exact: store.len, quantized, dropped: store.skipped });
                }
            }
        }
        Ok(Some((Self { layers }, tensors)))
    }

    /// Number of positions, if it is the same in all layers of attention.
    #[must_use]
    pub fn positions(&self) -> Option<i32> {
        let mut lengths = self.layers.iter().filter_map(|layer| match *layer {
            LayerLayout::Kv { exact, quantized, dropped } => Some([exact, quantized, dropped]),
            LayerLayout::Conv => None,
        });
        let sum = |parts: [i32; 3]| parts.into_iter().try_fold(0_i32, i32::checked_add);
        let first = sum(lengths.next()?)?;
        lengths.all(|parts| sum(parts) == Some(first)).then_some(first)
    }

    /// Tensors that belong to this layout, for the model that has filled `like`; `None` if it is none of that model.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn tensors(&self, like: &Cache) -> Result<Option<BTreeMap<String, TensorType>>> {
        if self.layers.len() != like.layers.len() {
            return Ok(None);
        }
        let mut tensors = BTreeMap::new();
        for (index, layers) in self.layers.iter().zip(&like.layers).enumerate() {
            let mut insert = |name: &str, x: &Array, rows: i32| {
                let mut shape = x.shape().to_vec();
                shape[1] = rows;
                tensors.insert(format!("{index}.{name}"), (x.dtype(), shape));
            };
            match layers {
                (LayerLayout::Conv, LayerCache::Conv(ConvState { last: Some(last) })) => {
                    insert("last", last, last.dim(1));
                }
                (&LayerLayout::Kv { exact, quantized, dropped }, LayerCache::Kv(like)) => {
                    let KeyValueBuffers { k: Some(k), v: Some(v), .. } = &like.store else { return Ok(None) };
                    let is_possible = match &like.older {
                        Some(_) => dropped == 0 && (quantized == 0 || quantized > FIRST),
                        // What was dropped is beyond the reach of all that follows.
                        None => {
                            quantized == 0 && (dropped == 0 || like.reach.is_some_and(|reach| exact >= reach))
                        }
                    };
                    if exact < 1 || quantized < 0 || dropped < 0 || !is_possible {
                        return Ok(None);
                    }
                    insert("k", k, exact);
                    insert("v", v, exact);
                    if let Some(older) = like.older.as_ref().filter(|_| quantized > 0) {
                        for (name, x) in [("k", k), ("v", v)] {
                            let row = zeros_dtype(&[1, 1, x.dim(2), x.dim(3)], x.dtype())?;
                            let Rows { codes, scales, biases } = Rows::pack(&row, older.format)?;
                            insert(&format!("first_{name}"), x, FIRST);
                            for (part, x) in [("codes", codes), ("scales", scales), ("biases", biases)] {
                                insert(&format!("older_{name}.{part}"), &x, quantized - FIRST);
                            }
                        }
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(tensors))
    }

    /// The cache of a text of which `planned` tokens were known in advance; `tensors` are those of
    /// [`tensors`](Self::tensors). `None` if one is missing.
    #[must_use]
    pub fn cache(&self, like: &Cache, planned: i32, mut tensors: Tensors) -> Option<Cache> {
        let layers = self.layers.iter().zip(&like.layers).enumerate().map(|(index, layers)| {
            let mut take = |name: &str| tensors.remove(&format!("{index}.{name}"));
            match layers {
                (LayerLayout::Conv, LayerCache::Conv(_)) => {
                    Some(LayerCache::Conv(ConvState { last: Some(take("last")?) }))
                }
                (&LayerLayout::Kv { exact, quantized, dropped }, LayerCache::Kv(like)) => {
                    let (k, v) = (Some(take("k")?), Some(take("v")?));
                    let mut cache = KvCache { planned, reach: like.reach, ..KvCache::default() };
                    cache.store = KeyValueBuffers { k, v, len: exact, skipped: dropped };
                    if let Some(older) = &like.older {
                        let mut restored = OlderPositions::new(older.format);
                        if quantized > 0 {
                            restored.len = quantized;
                            restored.first = Some([take("first_k")?, take("first_v")?]);
                            let mut rows = |name: &str| {
                                let mut part = |part: &str| take(&format!("{name}.{part}"));
                                let (codes, scales) = (part("codes")?, part("scales")?);
                                Some(Rows { codes, scales, biases: part("biases")? })
                            };
                            restored.packed = Some([rows("older_k")?, rows("older_v")?]);
                        }
                        cache.older = Some(restored);
                    }
                    Some(LayerCache::Kv(cache))
                }
                _ => None,
            }
        });
        Some(Cache { layers: layers.collect::<Option<_>>()? })
    }
}
