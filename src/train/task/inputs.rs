//! The named arrays of a batch.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::nn;
use crate::rng::digest;

/// Everything that changes from batch to batch in the graph of a loss, in which another batch of the same names and shapes
/// can take its place.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    arrays: BTreeMap<&'static str, Array>,
    /// The factor of the gradient, but not of the loss, in float16.
    pub scale: Option<f32>,
    /// Numbers that the host builds a graph with. A graph may be reused for inputs with other ones, unless their
    /// [`variant`](Self::variant) differs.
    constants: BTreeMap<&'static str, i32>,
    /// Tells apart inputs of the same shapes for which a model does different things, and therefore has other graphs.
    pub variant: u64,
}

impl Inputs {
    /// Nothing yet, with a scale of the gradient.
    #[must_use]
    pub fn new(scale: Option<f32>) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Adds `array` under `name`.
    pub fn insert(&mut self, name: &'static str, array: Array) {
        self.arrays.insert(name, array);
    }

    /// Adds a number of the host under `name`.
    pub fn insert_constant(&mut self, name: &'static str, number: i32) {
        self.constants.insert(name, number);
    }

    /// The number called `name`, if there is one.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<i32> {
        self.constants.get(name).copied()
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> nn::Result<&Array> {
        self.find(name).ok_or_else(|| Exception::custom(format!("the batch has no \"{name}\"")))
    }

    /// The array called `name`, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// All arrays, sorted by name.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.arrays.values()
    }

    /// The same names with other `arrays`, in the order of [`arrays`](Self::arrays).
    #[must_use]
    pub fn with_arrays(&self, arrays: &[Array]) -> Self {
        let arrays = self.arrays.keys().copied().zip(arrays.iter().cloned()).collect();
        Self { arrays, constants: self.constants.clone(), ..*self }
    }

    /// Tells apart inputs that need different graphs, beside shapes.
    pub(in crate::train) fn graph_key(&self) -> [u64; 2] {
        let names = self.arrays.keys().flat_map(|name| name.bytes().chain([0]));
        [digest(names.map(u64::from)), self.variant]
    }
}
