//! What stays of each parameter of a model that becomes narrower.

use std::collections::BTreeMap;

use mlx_rs::{Array, Dtype};

use crate::models::Model;
use crate::nn::units::Units;
use crate::{Result, kernels};

/// The slices of each parameter that stay, and factors of what stays.
#[derive(Debug)]
pub(super) struct Cuts {
    shapes: BTreeMap<String, Vec<i32>>,
    /// Whether each slice stays, by parameter and axis.
    masks: BTreeMap<(String, usize), Vec<bool>>,
    /// Factor, and what is added to the parameter before it is multiplied and subtracted afterwards.
    factors: BTreeMap<String, (f32, f32)>,
}

impl Cuts {
    /// Leaves `model` as it is.
    pub(super) fn new(model: &Model) -> Self {
        let parameters = model.parameters().flatten();
        let shapes = parameters.iter().map(|(name, array)| (name.to_string(), array.shape().to_vec()));
        Self { shapes: shapes.collect(), masks: BTreeMap::new(), factors: BTreeMap::new() }
    }

    /// Removes those of `units` that do not stay in `mask`, with everything that belongs to them.
    pub(super) fn remove_units(&mut self, units: &Units, mask: &[bool]) {
        for rows in &units.rows {
            for leaf in ["weight", "bias"] {
                self.remove(&format!("{}.{leaf}", rows.path), 0, (rows.first, rows.size), mask);
            }
        }
        for (name, size) in &units.vectors {
            self.remove(name, 0, (0, *size), mask);
        }
        self.remove(&format!("{}.weight", units.reader), 1, (0, units.columns), mask);
    }

    /// Removes slices of the parameter `name`, if there is one, along `axis`: units of `size` from number `first` on.
    pub(super) fn remove(&mut self, name: &str, axis: usize, (first, size): (usize, usize), mask: &[bool]) {
        let Some(shape) = self.shapes.get(name) else { return };
        let all = || vec![true; shape[axis] as usize];
        let stays = self.masks.entry((name.to_owned(), axis)).or_insert_with(all);
        for (unit, _) in mask.iter().enumerate().filter(|(_, stays)| !**stays) {
            stays[first + unit * size..][..size].fill(false);
        }
    }

    /// Multiplies the parameter `name` plus `offset` by `factor`.
    pub(super) fn scale(&mut self, name: &str, factor: f32, offset: f32) {
        self.factors.entry(name.to_owned()).or_insert((1.0, offset)).0 *= factor;
    }

    /// What remains of the parameter `name`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn apply(&self, name: &str, tensor: &Array) -> Result<Array> {
        let mut left = tensor.clone();
        for axis in 0..tensor.ndim() {
            let Some(stays) = self.masks.get(&(name.to_owned(), axis)) else { continue };
            let kept: Vec<i32> = (0..stays.len()).filter(|&i| stays[i]).map(|i| i as i32).collect();
            left = left.take_axis(Array::from_slice(&kept, &[kept.len() as i32]), axis as i32)?;
        }
        if let Some(&(factor, offset)) = self.factors.get(name) {
            let (factor, offset) = (Array::from_f32(factor), Array::from_f32(offset));
            let scaled = left.as_dtype(Dtype::Float32)?.add(&offset)?.multiply(factor)?.subtract(offset)?;
            left = scaled.as_dtype(tensor.dtype())?;
        }
        kernels::eval([&left])?;
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::units::Rows;

    fn cuts(shapes: &[(&str, &[i32])]) -> Cuts {
        let shapes = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        Cuts { shapes, masks: BTreeMap::new(), factors: BTreeMap::new() }
    }

    fn values(cuts: &Cuts, name: &str, values: &[f32], shape: &[i32]) -> Vec<f32> {
        let left = cuts.apply(name, &Array::from_slice(values, shape)).unwrap();
        left.contiguous().unwrap().as_slice::<f32>().to_vec()
    }

    #[test]
    fn rows_of_all_runs_and_columns_go() {
        let mut cuts = cuts(&[("up.weight", &[6, 1]), ("up.bias", &[6]), ("down.weight", &[2, 3])]);
        cuts.remove_units(&Units::channels(3, [("up", 0), ("up", 3)], "down"), &[true, false, true]);
        assert_eq!(
            values(&cuts, "up.weight", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[6, 1]),
            [0.0, 2.0, 3.0, 5.0]
        );
        assert_eq!(values(&cuts, "up.bias", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[6]), [0.0, 2.0, 3.0, 5.0]);
        let reader = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(values(&cuts, "down.weight", &reader, &[2, 3]), [1.0, 3.0, 4.0, 6.0]);
        assert_eq!(values(&cuts, "down.bias", &[7.0, 8.0], &[2]), [7.0, 8.0]);
    }

    #[test]
    fn units_may_have_several_rows_and_entries() {
        let mut cuts = cuts(&[("q.weight", &[4, 1]), ("sinks", &[4]), ("o.weight", &[1, 4])]);
        let units = Units {
            count: 2,
            rows: vec![Rows::new("q", 0, 2)],
            vectors: vec![("sinks".to_owned(), 2)],
            reader: "o".to_owned(),
            columns: 2,
        };
        cuts.remove_units(&units, &[false, true]);
        let x = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(values(&cuts, "q.weight", &x, &[4, 1]), [3.0, 4.0]);
        assert_eq!(values(&cuts, "sinks", &x, &[4]), [3.0, 4.0]);
        assert_eq!(values(&cuts, "o.weight", &x, &[1, 4]), [3.0, 4.0]);
        cuts.scale("norm", 2.0, 1.0);
        assert_eq!(values(&cuts, "norm", &[0.0, 1.0], &[2]), [1.0, 3.0]);
    }
}
