//! Importance of the columns of each layer, from calibration text.

use std::collections::BTreeMap;

use super::config::GgufConfig;
use crate::Result;
use crate::calibrate::{CalibrationText, mean_squares};
use crate::data::Tokenizer;
use crate::models::Model;
use crate::progress::Observer;

/// Mean squares of the inputs of layers, by key path; empty without calibration text.
///
/// # Errors
/// Text that cannot be used; errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn measure(
    model: &mut Model,
    tokenizer: &Tokenizer,
    config: &GgufConfig,
    observer: &mut dyn Observer,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let Some(data) = &config.calibration else { return Ok(BTreeMap::new()) };
    let &GgufConfig { calibration_sequences: sequences, sequence_length: length, seed, .. } = config;
    let text = CalibrationText { data, sequences, length, seed };
    let sequences = text.read(tokenizer, model.vocab_size())?;
    mean_squares(model, &sequences, observer)
}
