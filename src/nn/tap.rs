//! Observing the inputs of linear layers.

use std::sync::{Arc, Mutex, PoisonError};

use mlx_rs::Array;

/// Observed inputs, in the order in which they were computed. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Observation>>>);

/// One input of layers that are applied to it together.
#[derive(Debug)]
pub struct Observation {
    /// Numbers of the layers.
    pub layers: Vec<usize>,
    /// `[..., in]`, not evaluated.
    pub x: Array,
}

/// The connection of a layer to a [`Recorder`].
#[derive(Debug, Clone)]
pub struct Tap {
    layer: usize,
    recorder: Recorder,
}

impl Recorder {
    /// Creates the tap of the layer number `layer`.
    #[must_use]
    pub fn tap(&self, layer: usize) -> Tap {
        Tap { layer, recorder: self.clone() }
    }

    /// Takes what was observed so far.
    #[must_use]
    pub fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records `x`, the input of the layers with these `taps`.
pub(super) fn record<'a>(x: &Array, taps: impl Iterator<Item = &'a Tap>) {
    let taps: Vec<&Tap> = taps.collect();
    let Some(Tap { recorder, .. }) = taps.first() else { return };
    let layers = taps.iter().map(|tap| tap.layer).collect();
    let observation = Observation { layers, x: x.clone() };
    recorder.0.lock().unwrap_or_else(PoisonError::into_inner).push(observation);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use crate::nn::linear::forward_all;

    #[test]
    fn layers_of_one_input_are_observed_together() {
        let mut layers = [2, 3, 4].map(|outputs| Linear::new(4, outputs, false).unwrap());
        let recorder = Recorder::default();
        layers[0].tap = Some(recorder.tap(7));
        layers[2].tap = Some(recorder.tap(9));
        let x = Array::ones::<f32>(&[1, 4]).unwrap();
        let [a, b, c] = &layers;
        forward_all(&x, [a, b, c]).unwrap();
        b.forward(&x).unwrap();
        c.forward(&x).unwrap();
        let observed = recorder.take();
        assert_eq!(observed.iter().map(|o| o.layers.clone()).collect::<Vec<_>>(), [vec![7, 9], vec![9]]);
        assert!(recorder.take().is_empty());
    }
}
