//! A layer that is one of two types, under the same name in a checkpoint.

use mlx_rs::Array;
use mlx_rs::module::{ModuleParamMut, ModuleParamRef, ModuleParameters};

use super::Result;
use super::layer::{FeedForward, Linears};
use super::scaling::Flow;
use super::units::Units;

/// One of two types.
#[derive(Debug, Clone)]
pub enum Either<A, B> {
    /// The first type.
    A(A),
    /// The second type.
    B(B),
}

/// Evaluates `$call` for either variant.
macro_rules! each {
    ($either:expr, $part:ident => $call:expr) => {
        match $either {
            Either::A($part) => $call,
            Either::B($part) => $call,
        }
    };
}

impl<A: ModuleParameters, B: ModuleParameters> ModuleParameters for Either<A, B> {
    fn num_parameters(&self) -> usize {
        each!(self, part => part.num_parameters())
    }

    fn parameters(&self) -> ModuleParamRef<'_> {
        each!(self, part => part.parameters())
    }

    fn parameters_mut(&mut self) -> ModuleParamMut<'_> {
        each!(self, part => part.parameters_mut())
    }

    fn trainable_parameters(&self) -> ModuleParamRef<'_> {
        each!(self, part => part.trainable_parameters())
    }

    fn freeze_parameters(&mut self, recursive: bool) {
        each!(self, part => part.freeze_parameters(recursive));
    }

    fn unfreeze_parameters(&mut self, recursive: bool) {
        each!(self, part => part.unfreeze_parameters(recursive));
    }

    fn all_frozen(&self) -> Option<bool> {
        each!(self, part => part.all_frozen())
    }

    fn any_frozen(&self) -> Option<bool> {
        each!(self, part => part.any_frozen())
    }
}

impl<A: FeedForward, B: FeedForward> FeedForward for Either<A, B> {
    const DATA_DEPENDENT: bool = A::DATA_DEPENDENT || B::DATA_DEPENDENT;

    fn forward(&self, x: &Array) -> Result<Array> {
        each!(self, part => part.forward(x))
    }

    fn linears(&mut self) -> Linears<'_> {
        each!(self, part => part.linears())
    }

    fn flow(&self) -> Flow {
        each!(self, part => part.flow())
    }

    fn channels(&self) -> Option<Units> {
        each!(self, part => part.channels())
    }
}
