//! Named arrays of a batch.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::nn;
use crate::rng::digest;

/// All inputs of the graph of a loss that change from batch to batch. A graph can be reused for inputs with the
/// same names and shapes.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    arrays: BTreeMap<&'static str, Array>,
    /// Factor that multiplies the gradient, but not the reported loss, in float16.
    pub scale: Option<f32>,
    /// Integers used while the graph is built. A graph may be reused for inputs with different ones, unless their
    /// [`variant`](Self::variant) differs.
    constants: BTreeMap<&'static str, i32>,
    /// Distinguishes inputs of the same shapes that need different graphs.
    pub variant: u64,
}

impl Inputs {
    /// Creates empty inputs with a scale of the gradient.
    #[must_use]
    pub fn new(scale: Option<f32>) -> Self {
        Self { scale, ..Self::default() }
    }

    /// Adds `array` under `name`.
    pub fn insert(&mut self, name: &'static str, array: Array) {
        self.arrays.insert(name, array);
    }

    /// Adds an integer under `name`.
    pub fn insert_constant(&mut self, name: &'static str, number: i32) {
        self.constants.insert(name, number);
    }

    /// Returns the integer called `name`.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<i32> {
        self.constants.get(name).copied()
    }

    /// Returns the array called `name`.
    ///
    /// # Errors
    /// No array of this name.
    pub fn get(&self, name: &str) -> nn::Result<&Array> {
        self.find(name).ok_or_else(|| Exception::custom(format!("the batch has no \"{name}\"")))
    }

    /// Returns the array called `name`, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// Iterates over all arrays, sorted by name.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.arrays.values()
    }

    /// Replaces the arrays, given in the order of [`arrays`](Self::arrays).
    #[must_use]
    pub fn with_arrays(&self, arrays: &[Array]) -> Self {
        let arrays = self.arrays.keys().copied().zip(arrays.iter().cloned()).collect();
        Self { arrays, constants: self.constants.clone(), ..*self }
    }

    /// Key that distinguishes inputs that need different graphs, in addition to shapes.
    pub(in crate::train) fn graph_key(&self) -> [u64; 2] {
        let names = self.arrays.keys().flat_map(|name| name.bytes().chain([0]));
        [digest(names.map(u64::from)), self.variant]
    }
}
