//! Named parameters: the arrays of a module by key path, and operations on them by name.

use std::collections::BTreeMap;

use mlx_rs::error::Exception;
use mlx_rs::module::ModuleParameters;
use mlx_rs::{Array, Dtype};
use safetensors::tensor::TensorView;
use twox_hash::xxhash3_128::Hasher;

use crate::kernels::adamw::squared_norm;
use crate::{Error, Result, kernels};

/// Arrays by name, sorted, so that reductions are deterministic.
pub type Tensors = BTreeMap<String, Array>;

/// The parameters of `module` called `names`, in float32 whatever the module computes in: an update may be smaller than
/// half precision can represent ([mixed precision](https://arxiv.org/abs/1710.03740)). Unknown names are skipped.
///
/// # Errors
/// Errors from MLX.
pub fn parameters<M: ModuleParameters + ?Sized>(module: &M, names: &[String]) -> Result<Tensors> {
    let all = module.parameters().flatten();
    let values = names.iter().filter_map(|name| Some((name, *all.get(name.as_str())?)));
    values.map(|(name, value)| Ok((name.clone(), value.as_dtype(Dtype::Float32)?))).collect()
}

/// Replaces the parameters of `module` by `values` of the same names, each cast to the dtype it replaces. Unknown names
/// are skipped.
///
/// # Errors
/// Errors from MLX.
pub fn set_parameters<M: ModuleParameters + ?Sized>(
    module: &mut M,
    values: &Tensors,
) -> Result<(), Exception> {
    let mut all = module.parameters_mut().flatten();
    for (name, value) in values {
        if let Some(slot) = all.get_mut(name.as_str()) {
            **slot = value.as_dtype(slot.dtype())?;
        }
    }
    Ok(())
}

/// Adds name, dtype, shape and values of `array` to what `hasher` has read.
///
/// # Errors
/// An array that cannot be evaluated, or has numbers that files do not know.
pub fn digest(hasher: &mut Hasher, name: &str, array: &Array) -> Result<()> {
    let rows = array.contiguous()?;
    kernels::eval([&rows])?;
    let view = TensorView::try_from(&rows)
        .map_err(|error| Error::Training(format!("cannot read the values of \"{name}\": {error}")))?;
    // Lengths keep neighbours apart.
    hasher.write(format!("{} {name} {:?} {:?}", name.len(), view.dtype(), view.shape()).as_bytes());
    hasher.write(view.data());
    Ok(())
}

/// Adds `more` to `sum` by name; a name that only one of them has is kept. Without a sum, `more` is returned.
///
/// # Errors
/// Shapes that differ.
pub fn accumulate(sum: Option<Tensors>, more: Tensors) -> Result<Tensors> {
    let Some(mut sum) = sum else { return Ok(more) };
    for (name, value) in more {
        let total = match sum.get(&name) {
            Some(old) => old.add(&value)?,
            None => value,
        };
        sum.insert(name, total);
    }
    Ok(sum)
}

/// The Euclidean norm over all elements of `tensors`, a scalar in float32; not evaluated.
///
/// # Errors
/// Errors from MLX.
pub fn norm(tensors: &Tensors) -> Result<Array> {
    Ok(squared_norm(&tensors.values().collect::<Vec<_>>())?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use mlx_macros::ModuleParameters;
    use mlx_rs::module::Param;

    use super::*;
    use crate::kernels::eval;

    #[derive(Debug, ModuleParameters)]
    struct Scale {
        #[param]
        weight: Param<Array>,
    }

    fn tensors(entries: &[(&str, &[f32])]) -> Tensors {
        let array = |values: &[f32]| Array::from_slice(values, &[values.len() as i32]);
        entries.iter().map(|&(name, values)| (name.to_owned(), array(values))).collect()
    }

    #[test]
    fn parameters_are_read_in_float32_and_written_in_their_own_dtype() {
        let half = Array::from_slice(&[1.0_f32, 2.0], &[2]).as_dtype(Dtype::Float16).unwrap();
        let mut module = Scale { weight: Param::new(half) };
        let names = ["weight".to_owned(), "bias".to_owned()];
        let found = parameters(&module, &names).unwrap();
        assert_eq!((found.len(), found["weight"].dtype()), (1, Dtype::Float32));
        set_parameters(&mut module, &tensors(&[("weight", &[3.0, 4.0]), ("bias", &[1.0])])).unwrap();
        assert_eq!(module.weight.dtype(), Dtype::Float16);
        let found = parameters(&module, &names).unwrap();
        eval(found.values()).unwrap();
        assert_eq!(found["weight"].as_slice::<f32>(), [3.0, 4.0]);
    }

    #[test]
    fn sums_are_by_name() {
        let first = accumulate(None, tensors(&[("a", &[1.0, 2.0])])).unwrap();
        let sum = accumulate(Some(first), tensors(&[("a", &[2.0, 2.0]), ("b", &[12.0])])).unwrap();
        let length = norm(&sum).unwrap();
        eval([&length]).unwrap();
        // 3² + 4² + 12² = 13²
        assert!((length.item_exact::<f32>() - 13.0).abs() < 1e-6);
    }
}
