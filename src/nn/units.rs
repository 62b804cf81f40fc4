//! Which parameters belong to a channel of a feed-forward layer or to a group of attention heads: without one, none of
//! the others has a meaning.

/// Units of a layer that can go one by one, each with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// Number of units.
    pub count: usize,
    /// Linear layers that give them.
    pub rows: Vec<Rows>,
    /// Parameters of so many entries per unit.
    pub vectors: Vec<(String, usize)>,
    /// Key path of the linear layer that reads them.
    pub reader: String,
    /// Its inputs per unit.
    pub columns: usize,
}

/// Outputs of a linear layer, unit after unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Key path.
    pub path: String,
    /// First output of the first unit.
    pub first: usize,
    /// Outputs per unit.
    pub size: usize,
}

impl Rows {
    /// `size` outputs per unit of the layer at `path`, from number `first` on.
    #[must_use]
    pub fn new(path: &str, first: usize, size: usize) -> Self {
        Self { path: path.to_owned(), first, size }
    }
}

impl Units {
    /// The channels between the projections of a gated feed-forward layer: the outputs of `layers` from the given ones on,
    /// which `reader` reads.
    #[must_use]
    pub fn channels(count: usize, layers: [(&str, usize); 2], reader: &str) -> Self {
        let rows = layers.map(|(path, first)| Rows::new(path, first, 1)).to_vec();
        Self { count, rows, vectors: Vec::new(), reader: reader.to_owned(), columns: 1 }
    }

    /// Prepends `path` to all key paths.
    #[must_use]
    pub fn prefixed(mut self, path: &str) -> Self {
        let rows = self.rows.iter_mut().map(|rows| &mut rows.path);
        let vectors = self.vectors.iter_mut().map(|(name, _)| name);
        for name in rows.chain(vectors).chain([&mut self.reader]) {
            *name = format!("{path}.{name}");
        }
        self
    }
}
