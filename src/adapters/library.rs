//! Several adapters for one network in memory, of which one or a weighted sum is active.
//!
//! Low-rank updates are added exactly by concatenating their ranks: `Σ wᵢ·sᵢ·Aᵢ·Bᵢ = [A₁ A₂ …]·[w₁s₁B₁;
//! w₂s₂B₂; …]`.

use std::collections::{BTreeMap, HashMap};

use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype};

use super::adapter::{Adapter, AdapterLayer, DORA};
use super::attach;
use super::names::has_prompt;
use crate::nn::row_adapters::LayerUpdate;
use crate::nn::{Network, RowAdapter};
use crate::{Error, Result, kernels, nn};

/// Name of the adapter that a model was loaded or trained with.
pub const DEFAULT: &str = "default";

/// Adapters by name, and the weights of the active ones.
#[derive(Debug, Clone, Default)]
pub struct Library {
    adapters: BTreeMap<String, Entry>,
    active: BTreeMap<String, f32>,
    /// Number of adapters that were added.
    added: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Tells it from others of its name, before and after.
    number: u64,
    adapter: Adapter,
}

impl Library {
    /// Creates a library with the adapter attached to `model` under the name [`DEFAULT`], or an empty one.
    ///
    /// # Errors
    /// Only those of [`Network::visit_linears`].
    pub fn from_network(model: &mut dyn Network) -> Result<Self> {
        let adapter = Adapter::from_network(model, None)?;
        let mut library = Self::default();
        if !adapter.is_empty() {
            library.insert(DEFAULT, adapter);
            library.active.insert(DEFAULT.into(), 1.0);
        }
        Ok(library)
    }

    /// Returns the weight of every adapter; 0 if it is not active.
    #[must_use]
    pub fn weights(&self) -> BTreeMap<String, f32> {
        let weight = |name: &String| self.active.get(name).copied().unwrap_or_default();
        self.adapters.keys().map(|name| (name.clone(), weight(name))).collect()
    }

    /// Adds `adapter` under `name` without activating it.
    ///
    /// # Errors
    /// A name that is empty or already used, or matrices that do not fit `model`.
    pub fn add(&mut self, model: &mut dyn Network, name: &str, adapter: Adapter) -> Result<()> {
        refuse_prompt(model)?;
        if name.is_empty() {
            return Err(Error::Config("the name of an adapter is empty".into()));
        }
        if self.adapters.contains_key(name) {
            return Err(Error::Config(format!(
                "there is an adapter \"{name}\" already; choose another name, or unload that one first"
            )));
        }
        kernels::eval(adapter.arrays())?;
        adapter.check(model).map_err(|problem| {
            Error::ModelLoading(format!("adapter \"{name}\" does not fit the model: {problem}"))
        })?;
        self.insert(name, adapter);
        Ok(())
    }

    fn insert(&mut self, name: &str, adapter: Adapter) {
        self.adapters.insert(name.to_owned(), Entry { number: self.added, adapter });
        self.added += 1;
    }

    /// The active adapters, with their weights.
    #[must_use]
    pub fn active(&self) -> &BTreeMap<String, f32> {
        &self.active
    }

    /// Identifies the adapters named by `weights`, each scaled by its weight.
    ///
    /// # Errors
    /// An unknown name, or a weight that is not finite.
    pub fn identify(&self, weights: &BTreeMap<String, f32>) -> Result<String> {
        let parts: Vec<String> = (self.choose(weights)?.iter())
            .map(|(entry, weight)| format!("{}*{:x}", entry.number, weight.to_bits()))
            .collect();
        Ok(parts.join("+"))
    }

    /// Whether single rows of a pass may have the adapter `name`: not one with whole modules, which all rows share.
    ///
    /// # Errors
    /// An unknown name.
    pub fn is_batchable(&self, name: &str) -> Result<bool> {
        let entry = self.adapters.get(name).ok_or_else(|| self.unknown(name))?;
        Ok(entry.adapter.whole.is_empty())
    }

    /// Returns the adapters named by `weights`, each scaled by its weight, for single rows of a pass through `model`,
    /// with the given `id`.
    ///
    /// # Errors
    /// An unknown name, or a weight that is not finite; whole modules, chosen or attached to `model`, which all rows
    /// share.
    pub fn for_rows(
        &self,
        model: &mut dyn Network,
        weights: &BTreeMap<String, f32>,
        id: u64,
    ) -> Result<RowAdapter> {
        let mut names = weights.keys().chain(self.active.keys());
        if let Some(name) = names.find(|name| matches!(self.is_batchable(name), Ok(false))) {
            return Err(Error::Config(format!(
                "adapter \"{name}\" has whole modules (modules_to_save), which all requests share: requests with other \
                 adapters cannot be computed together with it"
            )));
        }
        let adapter = blend(&self.choose(weights)?)?;
        adapter.check(model).map_err(Error::ModelLoading)?;
        let mut layers = HashMap::new();
        model.visit_linears(&mut |path, layer| {
            let Some(update) = adapter.layers.get(path) else { return Ok(()) };
            let mut adapted = layer.clone();
            adapted.remove_update();
            update.attach(&mut adapted)?;
            if let Some(LayerUpdate { a, b, scale, factor }) = adapted.update()? {
                // Matrices of files may be views; passes are recorded with what they read in place.
                let (a, b) = (a.contiguous()?, b.contiguous()?);
                kernels::eval([&a, &b].into_iter().chain(&factor))?;
                layers.insert(path.to_owned(), LayerUpdate { a, b, scale, factor });
            }
            Ok(())
        })?;
        Ok(RowAdapter::new(id, layers))
    }

    /// Activates the adapters named by `weights`, each scaled by its weight, and deactivates all others.
    ///
    /// # Errors
    /// An unknown name, or a weight that is not finite. `model` is then left unchanged.
    pub fn set(&mut self, model: &mut dyn Network, weights: &BTreeMap<String, f32>) -> Result<()> {
        refuse_prompt(model)?;
        let blend = blend(&self.choose(weights)?)?;
        attach::detach_adapters(model)?;
        blend.attach(model).map_err(Error::ModelLoading)?;
        self.active.clone_from(weights);
        Ok(())
    }

    /// Removes the adapter `name`; other active adapters stay active.
    ///
    /// # Errors
    /// An unknown name.
    pub fn remove(&mut self, model: &mut dyn Network, name: &str) -> Result<()> {
        if !self.adapters.contains_key(name) {
            return Err(self.unknown(name));
        }
        if self.active.contains_key(name) {
            let mut rest = self.active.clone();
            rest.remove(name);
            self.set(model, &rest)?;
        }
        self.adapters.remove(name);
        Ok(())
    }

    /// The adapters named by `weights`, with these.
    fn choose(&self, weights: &BTreeMap<String, f32>) -> Result<Vec<(&Entry, f32)>> {
        let choose = |(name, &weight): (&String, &f32)| {
            let entry = self.adapters.get(name).ok_or_else(|| self.unknown(name))?;
            if !weight.is_finite() {
                return Err(Error::Config(format!(
                    "the weight of adapter \"{name}\" is {weight}, expected a finite number"
                )));
            }
            Ok((entry, weight))
        };
        weights.iter().map(choose).collect()
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<String> = self.adapters.keys().map(|name| format!("\"{name}\"")).collect();
        let loaded =
            if names.is_empty() { "none is".to_owned() } else { format!("loaded: {}", names.join(", ")) };
        Error::Config(format!("no adapter is called \"{name}\"; {loaded}"))
    }
}

/// Rejects a model with a soft prompt, which would be lost.
fn refuse_prompt(model: &dyn Network) -> Result<()> {
    if !has_prompt(model) {
        return Ok(());
    }
    Err(Error::Config(
        "the model has virtual tokens, which cannot be exchanged; load it without them to use other adapters"
            .into(),
    ))
}

/// Returns the weighted sum of `adapters` as a single adapter.
fn blend(entries: &[(&Entry, f32)]) -> Result<Adapter> {
    let adapters: Vec<(&Adapter, f32)> =
        entries.iter().map(|&(entry, weight)| (&entry.adapter, weight)).collect();
    let alone = matches!(adapters[..], [(_, 1.0)]);
    if !alone && adapters.iter().any(|(adapter, _)| adapter.kind() == DORA) {
        return Err(Error::Config(
            "an adapter with magnitudes (DoRA) cannot be weighted or blended: its effect is no sum; set it alone".into(),
        ));
    }
    if !alone && adapters.iter().any(|(adapter, _)| !adapter.whole.is_empty()) {
        return Err(Error::Config(
            "an adapter with whole modules (modules_to_save) cannot be weighted or blended; set it alone"
                .into(),
        ));
    }
    let whole = adapters.first().map(|(adapter, _)| adapter.whole.clone()).unwrap_or_default();
    let dropout = match adapters[..] {
        [(adapter, _)] => adapter.dropout,
        _ => 0.0,
    };
    let mut parts: BTreeMap<&String, Vec<AdapterLayer>> = BTreeMap::new();
    for (adapter, weight) in &adapters {
        for (path, layer) in &adapter.layers {
            let layer = AdapterLayer { scale: layer.scale * weight, ..layer.clone() };
            parts.entry(path).or_default().push(layer);
        }
    }
    let layers: Result<_> = parts.into_iter().map(|(path, parts)| Ok((path.clone(), sum(parts)?))).collect();
    Ok(Adapter { layers: layers?, dropout, whole, ..Adapter::default() })
}

/// Adds the updates of one layer; if there are several, their scaling factors are folded into `B`, in
/// float32.
fn sum(mut parts: Vec<AdapterLayer>) -> Result<AdapterLayer> {
    if parts.len() == 1 {
        return Ok(parts.swap_remove(0));
    }
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let a: nn::Result<Vec<Array>> = parts.iter().map(|part| wide(&part.a)).collect();
    let scaled = |part: &AdapterLayer| wide(&part.b)?.multiply(Array::from_f32(part.scale));
    let b: nn::Result<Vec<Array>> = parts.iter().map(scaled).collect();
    let (a, b) = (concatenate(&a?, 1)?, concatenate(&b?, 0)?);
    kernels::eval([&a, &b])?;
    Ok(AdapterLayer { a, b, m: None, scale: 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(numbers: &[f32], scale: f32) -> AdapterLayer {
        AdapterLayer {
            a: Array::from_slice(&numbers[..2], &[2, 1]),
            b: Array::from_slice(&numbers[2..], &[1, 2]),
            m: None,
            scale,
        }
    }

    fn product(layer: &AdapterLayer) -> Vec<f32> {
        let x = layer.a.matmul(&layer.b).unwrap().multiply(Array::from_f32(layer.scale)).unwrap();
        kernels::eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn ranks_beside_each_other_add_up() {
        let adapter = |layer: AdapterLayer| Entry {
            number: 0,
            adapter: Adapter { layers: [("x".to_owned(), layer)].into(), ..Adapter::default() },
        };
        let (one, two) =
            (adapter(layer(&[1.0, 2.0, 3.0, 4.0], 2.0)), adapter(layer(&[-1.0, 0.5, 2.0, 8.0], 0.5)));
        let both = blend(&[(&one, 0.25), (&two, -2.0)]).unwrap();
        let (one, two) = (product(&one.adapter.layers["x"]), product(&two.adapter.layers["x"]));
        let want: Vec<f32> = one.iter().zip(two).map(|(one, two)| 0.25 * one - 2.0 * two).collect();
        assert_eq!(product(&both.layers["x"]), want);
    }
}
