//! The updates of a round.

pub use kernels::updates::{Values, ValuesMut};

use crate::{Error, Result};

/// One tensor of every client.
#[derive(Debug)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its elements, by client; all of one length and format.
    pub clients: Vec<Values<'a>>,
    /// What the updates are measured from, such as the model of the round.
    pub reference: Option<Values<'a>>,
}

/// The updates of a round.
#[derive(Debug)]
pub struct Updates<'a> {
    /// Names of the clients, for messages.
    pub clients: Vec<String>,
    /// Tensors.
    pub tensors: Vec<Tensor<'a>>,
}

impl<'a> Updates<'a> {
    /// Number of clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are no clients.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether every tensor has a reference.
    pub(super) fn has_reference(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.reference.is_some())
    }

    /// Checks the lengths.
    ///
    /// # Errors
    /// No clients or tensors; a tensor of another length, by client and name.
    pub(super) fn validate(&self) -> Result<()> {
        if self.clients.is_empty() || self.tensors.is_empty() {
            return Err(Error::Config(
                "updates is empty, expected one dictionary of arrays per client".into(),
            ));
        }
        for tensor in &self.tensors {
            let len = tensor.clients.first().map_or(0, Values::len);
            for (client, values) in self.clients.iter().zip(&tensor.clients) {
                if values.len() != len {
                    return Err(Error::Config(format!(
                        "{client}: {} has {} elements, expected {len}",
                        tensor.name,
                        values.len()
                    )));
                }
            }
            if let Some(reference) = tensor.reference {
                if reference.len() != len {
                    return Err(Error::Config(format!(
                        "reference: {} has {} elements, expected {len}",
                        tensor.name,
                        reference.len()
                    )));
                }
                if let Some(index) = reference.first_non_finite() {
                    return Err(Error::Config(format!(
                        "reference: {} has a number that is not finite, at {index}",
                        tensor.name
                    )));
                }
            }
            if tensor.clients.len() != self.clients.len() {
                return Err(Error::Config(format!("{} is not of every client", tensor.name)));
            }
        }
        Ok(())
    }

    /// Slices of the clients `chosen` by tensor.
    pub(super) fn slices(&self, chosen: &[usize]) -> Vec<Vec<Values<'a>>> {
        let of = |tensor: &Tensor<'a>| chosen.iter().map(|&client| tensor.clients[client]).collect();
        self.tensors.iter().map(of).collect()
    }

    /// Puts the reference of each tensor, or `zeros`, behind its `slices`.
    pub(super) fn push_references<'b>(&self, slices: &mut [Vec<Values<'b>>], zeros: &'b [f64])
    where
        'a: 'b,
    {
        for (tensor, slices) in self.tensors.iter().zip(slices) {
            let len = tensor.clients.first().map_or(0, Values::len);
            slices.push(tensor.reference.unwrap_or_else(|| Values::F64(&zeros[..len])));
        }
    }

    /// Elements of the longest tensor.
    pub(super) fn longest(&self) -> usize {
        self.tensors.iter().filter_map(|tensor| tensor.clients.first()).map(Values::len).max().unwrap_or(0)
    }

    /// Says which number of `client` is not finite.
    pub(super) fn not_finite(&self, client: usize) -> Error {
        let found = self.tensors.iter().find_map(|tensor| {
            let index = tensor.clients[client].first_non_finite()?;
            Some((tensor.name, index))
        });
        let what = match found {
            Some((name, index)) => format!("{name} has a number that is not finite, at {index}"),
            None => "the distance to other updates overflows".to_owned(),
        };
        Error::Config(format!(
            "{}: {what}; remove the update, or pass on_invalid=\"drop\"",
            self.clients[client]
        ))
    }
}
