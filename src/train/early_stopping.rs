//! When no better weights are to be expected.

/// When a run ends before its last step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations in a row that may go by without an improvement.
    pub patience: u64,
    /// By how much the validation loss, in nats, must fall below its last improvement to be one.
    pub threshold: f64,
}

impl EarlyStopping {
    /// Whether the validation losses so far, `(steps taken, loss)` from the untouched model on, exhaust it.
    ///
    /// It depends on nothing else, so a resumed run stops where the first one would have.
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
