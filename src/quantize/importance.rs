//! Activation importance: the mean square of each input of each layer, as llama.cpp's `imatrix` keeps it.

use std::path::Path;

use mlx_rs::{Array, Dtype};

use crate::io::tensors;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

/// File name of the importance in the output folder.
pub(super) const FILE: &str = "importance.safetensors";

/// Mean squares, `[in]`, by the key path of the layer.
#[derive(Debug, Default)]
pub(super) struct Importance(Tensors);

impl Importance {
    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Ok(Self(tensors::read(path)?))
    }

    /// Adds a layer.
    pub(super) fn insert(&mut self, path: &str, mean_squares: &[f32]) {
        self.0.insert(path.to_owned(), Array::from_slice(mean_squares, &[mean_squares.len() as i32]));
    }

    /// Writes the file `path`.
    ///
    /// # Errors
    /// No space or no permission.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        tensors::write(path, &self.0, &[])
    }

    /// That of the layer at `path` with so many `columns`; `None` if there is none.
    ///
    /// # Errors
    /// Another number of columns, or numbers that are negative or not finite.
    pub(super) fn of(&self, path: &str, columns: usize) -> Result<Option<Vec<f32>>> {
        let Some(squares) = self.0.get(path) else { return Ok(None) };
        let wide = squares.as_dtype(Dtype::Float32)?;
        kernels::eval([&wide])?;
        let values = wide.as_slice::<f32>();
        if values.len() != columns || values.iter().any(|value| !value.is_finite() || *value < 0.0) {
            return Err(Error::Config(format!(
                "importance: \"{path}\" has shape {:?}, expected {columns} mean squares: it belongs to another model",
                squares.shape()
            )));
        }
        Ok(Some(values.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut importance = Importance::default();
        importance.insert("a", &[1.0, 4.0]);
        importance.insert("b", &[-1.0]);
        importance.save(&path).unwrap();
        let read = Importance::read(&path).unwrap();
        assert_eq!(read.of("a", 2).unwrap(), Some(vec![1.0, 4.0]));
        assert_eq!(read.of("c", 2).unwrap(), None);
        for (layer, columns) in [("a", 3), ("b", 1)] {
            let error = read.of(layer, columns).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{layer}\"")), "{error}");
        }
        assert!(Importance::read(&folder.path().join("none")).is_err());
    }
}
