//! Which parameters belong to a channel of a feed-forward layer: without one, none of the others has a meaning.

/// The channels between the projections of a gated feed-forward layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channels {
    /// Number of channels.
    pub count: usize,
    /// Where they come from: key paths of linear layers, and the output that gives the first channel.
    pub rows: Vec<(String, usize)>,
    /// Key path of the linear layer that reads them.
    pub reader: String,
}

impl Channels {
    /// Channels that the outputs `rows` give, and `reader` reads.
    #[must_use]
    pub fn new(count: usize, rows: [(&str, usize); 2], reader: &str) -> Self {
        let rows = rows.map(|(path, first)| (path.to_owned(), first)).to_vec();
        Self { count, rows, reader: reader.to_owned() }
    }

    /// Prepends `path` to all key paths.
    #[must_use]
    pub fn prefixed(mut self, path: &str) -> Self {
        for name in self.rows.iter_mut().map(|(name, _)| name).chain([&mut self.reader]) {
            *name = format!("{path}.{name}");
        }
        self
    }
}
