//! What the layers of a block read on calibration text.

use std::collections::BTreeMap;

use super::{BlockStream, Input, SecondMoments};
use crate::Result;
use crate::models::Model;
use crate::progress::Observer;

/// Second moments of every input of some layers, by the numbers of the layers that read it.
pub type Inputs = BTreeMap<Vec<usize>, SecondMoments>;

/// Second moments of every input of the layers at `paths`.
///
/// # Errors
/// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
pub fn observe(
    stream: &BlockStream,
    model: &mut Model,
    paths: &[String],
    observer: &mut dyn Observer,
) -> Result<Inputs> {
    let mut inputs = Inputs::new();
    stream.observe(model, paths, observer, &mut |Input { layers, x }| {
        let new = || SecondMoments::new(x.dim(-1) as usize);
        inputs.entry(layers.to_vec()).or_insert_with(new).add(x)
    })?;
    Ok(inputs)
}
