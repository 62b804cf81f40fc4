//! Arithmetic of products with quantized weights.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// Minimum accuracy of products with quantized weights. Accumulation is always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accuracy {
    /// f32 operands.
    F32,
    /// Operands may be rounded to bf16.
    Bf16,
    /// Activations may be quantized to 8-bit integers with a scale per group of 32 or 64. Inference only: gradients are
    /// computed in floating point.
    Int8,
}

thread_local! {
    static CURRENT: Cell<Option<Accuracy>> = const { Cell::new(None) };
}

impl Accuracy {
    /// All values, most accurate first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Calls `build`; nodes built by it on this thread are computed with this accuracy on the CPU. Outside of a scope,
    /// the dtype of the activations determines the accuracy.
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

    /// [`scope`](Self::scope) of `accuracy`, if there is one.
    pub fn optional_scope<R>(accuracy: Option<Self>, build: impl FnOnce() -> R) -> R {
        match accuracy {
            Some(accuracy) => accuracy.scope(build),
            None => build(),
        }
    }

    /// Accuracy of the innermost enclosing [`scope`](Self::scope).
    pub(crate) fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Name in options.
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
            Accuracy::optional_scope(None, || assert_eq!(Accuracy::current(), Some(Accuracy::Int8)));
            let inner = Accuracy::optional_scope(Some(Accuracy::Bf16), Accuracy::current);
            assert_eq!(inner, Some(Accuracy::Bf16));
        });
        assert_eq!(Accuracy::current(), None);
    }
}
