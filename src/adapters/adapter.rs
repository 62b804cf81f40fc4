//! A low-rank adapter in memory: the common representation of all file formats, and what is attached to a
//! network.

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::Array;

use super::whole::{self, HEAD, WholeModules};
use crate::Result;
use crate::io::weights;
use crate::nn::quantized::is_float;
use crate::nn::{Linear, LowRank, Network};

/// Type of plain low-rank adapters.
pub const LORA: &str = "lora";
/// Type of low-rank adapters with [magnitudes](crate::nn::linear::dora).
pub const DORA: &str = "dora";

/// Low-rank matrices for some linear layers of a network.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// Matrices by the key path of their layer.
    pub layers: BTreeMap<String, AdapterLayer>,
    /// Dropout probability of the adapter inputs during training.
    pub dropout: f32,
    /// Model the adapter was trained on, if known.
    pub base_model: Option<String>,
    /// Number of non-zero ranks by key path, if layers differ; informational.
    pub ranks: BTreeMap<String, u32>,
    /// Parameters that stand in for those of the model, by name.
    pub whole: WholeModules,
    /// Whether the model is one of images and texts, for which PEFT has no type of task.
    pub is_image_text: bool,
}

/// Low-rank update of one layer, `scale·(x·A)·B`, with an optional [magnitude](crate::nn::linear::dora).
#[derive(Debug, Clone)]
pub struct AdapterLayer {
    /// `A`, `[in, rank]`.
    pub a: Array,
    /// `B`, `[rank, out]`.
    pub b: Array,
    /// Magnitude, `[out]`, for `DoRA`.
    pub m: Option<Array>,
    /// Scaling factor, usually `alpha / rank`.
    pub scale: f32,
}

impl AdapterLayer {
    /// Rank of the update.
    #[must_use]
    pub fn rank(&self) -> i32 {
        self.b.dim(0)
    }

    /// Puts the update into the slots of `layer`, which it fits.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn attach(&self, layer: &mut Linear) -> Result<()> {
        let Self { a, b, m, scale } = self;
        (*layer.lora_a, *layer.lora_b, *layer.m) = (Some(a.clone()), Some(b.clone()), m.clone());
        layer.low_rank = LowRank { scale: *scale, ..LowRank::default() };
        layer.cache_row_norms()
    }

    /// Creates a layer from matrices with consistent shapes.
    ///
    /// # Errors
    /// Inconsistent shapes, a dtype that is not floating point, or a scale that is not finite.
    pub(super) fn new(
        path: &str,
        a: Array,
        b: Array,
        m: Option<Array>,
        scale: f32,
    ) -> std::result::Result<Self, String> {
        let fits = a.ndim() == 2 && b.ndim() == 2 && a.dim(1) == b.dim(0) && a.dim(1) > 0;
        if !fits {
            let (a, b) = (a.shape(), b.shape());
            return Err(format!("\"{path}\": A of shape {a:?} and B of shape {b:?} do not belong together"));
        }
        for x in [&a, &b].into_iter().chain(&m) {
            if !is_float(x.dtype()) {
                return Err(format!("\"{path}\" is {:?}, expected floating-point numbers", x.dtype()));
            }
        }
        if !scale.is_finite() {
            return Err(format!("\"{path}\" is scaled by {scale}, expected a finite number"));
        }
        Ok(Self { a, b, m, scale })
    }
}

impl Adapter {
    /// [`LORA`] or [`DORA`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        kind(self.layers.values().any(|layer| layer.m.is_some()))
    }

    /// Returns the adapter currently attached to `model`; without layers if there is none.
    ///
    /// # Errors
    /// Only those of [`Network::visit_linears`].
    pub fn from_network(model: &mut dyn Network, base_model: Option<String>) -> Result<Self> {
        let mut adapter = Self { base_model, whole: whole::attached(model), ..Self::default() };
        model.visit_linears(&mut |path, layer| {
            if let (Some(a), Some(b)) = (&*layer.lora_a, &*layer.lora_b) {
                let (a, b, m) = (a.clone(), b.clone(), (*layer.m).clone());
                let part = AdapterLayer { a, b, m, scale: layer.low_rank.scale };
                adapter.layers.insert(path.to_owned(), part);
                adapter.dropout = layer.low_rank.dropout;
            }
            Ok(())
        })?;
        Ok(adapter)
    }

    /// Checks that every matrix belongs to a layer of `model` with matching dimensions, and every whole module to a
    /// parameter. An output head that the adapter changes is one of the adaptable layers afterwards.
    ///
    /// # Errors
    /// The mismatches, listed.
    pub fn check(&self, model: &mut dyn Network) -> Result<(), String> {
        whole::open_head(&self.whole, self.layers.contains_key(HEAD), model);
        let mut problems = whole::problems(&self.whole, model).map_err(|error| error.to_string())?;
        let mut unknown: BTreeSet<&String> = self.layers.keys().collect();
        let visited = model.visit_linears(&mut |path, layer| {
            let Some((path, AdapterLayer { a, b, m, .. })) = self.layers.get_key_value(path) else {
                return Ok(());
            };
            unknown.remove(path);
            let (inputs, outputs) = layer.size();
            if a.dim(0) != inputs || b.dim(1) != outputs {
                let (a, b) = (a.shape(), b.shape());
                problems.push(format!(
                    "A {a:?} and B {b:?} of \"{path}\" do not fit a layer from {inputs} to {outputs}"
                ));
            }
            if let Some(m) = m.as_ref().filter(|m| m.shape() != [outputs]) {
                let shape = m.shape();
                problems.push(format!(
                    "the magnitude {shape:?} of \"{path}\" does not fit a layer with {outputs} outputs"
                ));
            }
            Ok(())
        });
        if let Err(error) = visited {
            problems.push(error.to_string());
        }
        problems.extend(unknown.into_iter().map(|path| format!("there is no layer \"{path}\"")));
        if problems.is_empty() { Ok(()) } else { Err(weights::summarize(&problems)) }
    }

    /// Attaches the adapter to `model`, all layers or none. Other layers of the model are left unchanged.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn attach(&self, model: &mut dyn Network) -> Result<(), String> {
        self.check(model)?;
        whole::replace(&self.whole, model).map_err(|error| error.to_string())?;
        let set = model.visit_linears(&mut |path, layer| {
            if let Some(update) = self.layers.get(path) {
                update.attach(layer)?;
                layer.low_rank.dropout = self.dropout;
            }
            Ok(())
        });
        set.map_err(|error| error.to_string())
    }

    /// Whether the adapter does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.whole.is_empty()
    }

    /// Iterates over all arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let low_rank =
            self.layers.values().flat_map(|layer| [&layer.a, &layer.b].into_iter().chain(&layer.m));
        low_rank.chain(self.whole.values().map(|module| &module.value))
    }
}

/// Returns the type of an adapter with or without magnitudes.
#[must_use]
pub fn kind(has_magnitudes: bool) -> &'static str {
    if has_magnitudes { DORA } else { LORA }
}
