//! How exactly products with packed weights are computed.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// How products are computed, at least; sums are f32 in all cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accuracy {
    /// In f32.
    F32,
    /// Activations and weights may be rounded to bf16.
    Bf16,
    /// Activations may be rounded to integers of 8 bits with a scale per 32 or 64 of them. For inference
    /// only: gradients are never computed this way.
    Int8,
}

thread_local! {
    static CURRENT: Cell<Option<Accuracy>> = const { Cell::new(None) };
}

impl Accuracy {
    /// All of them, the most accurate first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Nodes that `build` builds on this thread are computed like this on the CPU. Everywhere else, training
    /// above all, activations keep their own format.
    pub fn scope<R>(self, build: impl FnOnce() -> R) -> R {
        /// Puts the old value back, also when `build` panics.
        struct Restore(Option<Accuracy>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        build()
    }

    /// The accuracy of the innermost [`scope`](Self::scope) around the caller.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// As options spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        assert_eq!(Accuracy::current(), None);
        Accuracy::Int8.scope(|| {
            Accuracy::F32.scope(|| assert_eq!(Accuracy::current(), Some(Accuracy::F32)));
            assert_eq!(Accuracy::current(), Some(Accuracy::Int8));
        });
        assert_eq!(Accuracy::current(), None);
    }
}
