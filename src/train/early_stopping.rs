//! Early stopping.

/// Stops training when the validation loss no longer improves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    /// Number of consecutive evaluations without an improvement after which training stops.
    pub patience: u64,
    /// Minimum decrease of the validation loss that counts as an improvement, in nats.
    pub threshold: f64,
}

impl EarlyStopping {
    /// Whether to stop after the validation `losses` so far, pairs `(steps taken, loss)` that start with the
    /// untrained model.
    ///
    /// Depends on nothing else, so that a resumed run stops at the same step.
    #[must_use]
    pub fn should_stop(&self, losses: &[(u64, f64)]) -> bool {
        let (mut best, mut waited) = (f64::INFINITY, 0);
        losses.iter().any(|&(_, loss)| {
            if loss < best - self.threshold {
                (best, waited) = (loss, 0);
            } else {
                waited += 1;
            }
            waited >= self.patience
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_after(losses: &[f64], patience: u64, threshold: f64) -> Option<usize> {
        let points: Vec<(u64, f64)> = losses.iter().enumerate().map(|(i, &loss)| (i as u64, loss)).collect();
        let early_stopping = EarlyStopping { patience, threshold };
        (1..=points.len()).find(|&count| early_stopping.should_stop(&points[..count])).map(|count| count - 1)
    }

    #[test]
    fn patience_counts_evaluations_in_a_row() {
        assert_eq!(stops_after(&[3.0, 2.0, 2.5, 1.9, 2.0, 2.0], 2, 0.0), Some(5));
        assert_eq!(stops_after(&[3.0, 2.0, 2.5, 1.9, 2.0], 2, 0.0), None);
        assert_eq!(stops_after(&[3.0, 3.0], 1, 0.0), Some(1));
    }

    #[test]
    fn small_improvements_add_up_to_the_threshold() {
        // Each is below 0.1, but two of them are not.
        assert_eq!(stops_after(&[3.0, 2.94, 2.88, 2.82, 2.76], 2, 0.1), None);
        assert_eq!(stops_after(&[3.0, 2.98, 2.96, 2.94], 2, 0.1), Some(2));
    }
}
