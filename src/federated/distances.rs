//! What is known of the updates without reading them again: the distances between them fix every length and angle, so
//! that iterative rules cost a few products of small matrices.

/// Squared distances between updates, and from the reference where there is one.
#[derive(Debug, Clone)]
pub(super) struct Distances {
    /// `[points, points]`, the reference last.
    squared: Vec<f64>,
    points: usize,
    updates: usize,
}

impl Distances {
    pub(super) fn new(squared: Vec<f64>, updates: usize, with_reference: bool) -> Self {
        Self { squared, points: updates + usize::from(with_reference), updates }
    }

    /// Number of updates.
    pub(super) fn updates(&self) -> usize {
        self.updates
    }

    /// Squared distance between two updates.
    pub(super) fn squared(&self, i: usize, j: usize) -> f64 {
        self.squared[i * self.points + j]
    }

    /// Squared distance of every update from `Σ shareᵢ·updateᵢ`, whose shares add up to one.
    pub(super) fn to_combination(&self, shares: &[f64]) -> Vec<f64> {
        // ‖xᵢ - z‖² = Σⱼ sⱼDᵢⱼ - ½ Σⱼₖ sⱼsₖDⱼₖ
        let products: Vec<f64> = (0..self.updates)
            .map(|i| shares.iter().enumerate().map(|(j, share)| share * self.squared(i, j)).sum())
            .collect();
        let spread: f64 = products.iter().zip(shares).map(|(product, share)| product * share).sum();
        products.iter().map(|product| (product - spread / 2.0).max(0.0)).collect()
    }

    /// `(updateᵢ - reference)·(updateⱼ - reference)`
    pub(super) fn product(&self, i: usize, j: usize) -> f64 {
        let reference = self.points - 1;
        (self.squared(i, reference) + self.squared(j, reference) - self.squared(i, j)) / 2.0
    }

    /// Distances between mixtures of updates, whose coefficients add up to one, and from the reference.
    pub(super) fn of_mixture(&self, mixture: &[Vec<f64>]) -> Self {
        let with_reference = self.points > self.updates;
        let mut rows: Vec<Vec<f64>> = mixture.to_vec();
        if with_reference {
            for row in &mut rows {
                row.push(0.0);
            }
            let mut reference = vec![0.0; self.points];
            reference[self.updates] = 1.0;
            rows.push(reference);
        }
        let mut mixed = Self::new(vec![0.0; rows.len() * rows.len()], mixture.len(), with_reference);
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().skip(i + 1) {
                // ‖ya - yb‖² = -½ (a - b)ᵀ D (a - b)
                let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
                let product = |row: &[f64]| row.iter().zip(&difference).map(|(x, y)| x * y).sum::<f64>();
                let rows = self.squared.chunks(self.points).zip(&difference);
                let sum: f64 = rows.map(|(row, x)| x * product(row)).sum();
                let squared = (-sum / 2.0).max(0.0);
                (mixed.squared[i * mixed.points + j], mixed.squared[j * mixed.points + i]) =
                    (squared, squared);
            }
        }
        mixed
    }
}
