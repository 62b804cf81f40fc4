//! Compiled functions: MLX traces a function once per input shapes and caches the optimized graph, with fused kernels on
//! GPUs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::marker::PhantomData;

use mlx_rs::Array;

use crate::error::MlxResult;
use crate::mlx::closure::Closure;
use crate::mlx::device::on_cpu;

/// Maximum number of cached graphs; the cache is cleared when it is exceeded.
const MAX_GRAPHS: usize = 64;

/// Compilation cache of one function.
///
/// Cached graphs keep alive the arrays that the function captures. The default value does not cache.
#[derive(Debug, Default)]
pub struct Graphs {
    /// Its address is the function's key in MLX's cache; `None` if calls are not cached.
    name: Option<Box<u8>>,
    /// Variants and shapes with a cached graph.
    known: RefCell<HashSet<Vec<u64>>>,
    /// MLX's cache is thread-local.
    thread: PhantomData<*const ()>,
}

impl Graphs {
    /// Creates an empty cache; with `kept` false, the function is traced in every call instead.
    ///
    /// # Errors
    /// An exception raised by MLX.
    pub fn new(kept: bool) -> MlxResult<Self> {
        // The first call through mlx-rs replaces mlx-c's error handler, which would end the process.
        mlx_rs::memory::active_memory()?;
        if kept && on_cpu() {
            // There MLX fuses with the help of a C++ compiler, which users need not have. Only tests come here.
            // SAFETY: takes a number.
            unsafe { mlx_sys::mlx_set_compile_mode(mlx_sys::mlx_compile_mode__MLX_COMPILE_MODE_NO_FUSE) };
        }
        Ok(Self { name: kept.then(|| Box::new(0)), known: RefCell::default(), thread: PhantomData })
    }

    /// Whether graphs are cached.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.name.is_some()
    }

    /// Calls `function` with `inputs`, using the cached graph of this variant and these shapes if there is one.
    ///
    /// `function` must depend only on `inputs`, `variant` and constants, and must not evaluate arrays.
    ///
    /// # Errors
    /// Errors of `function`.
    pub fn call(
        &self,
        variant: &[u64],
        inputs: &[Array],
        mut function: impl FnMut(&[Array]) -> MlxResult<Vec<Array>>,
    ) -> MlxResult<Vec<Array>> {
        let Some(name) = self.name() else { return function(inputs) };
        self.make_room(name, variant, inputs);
        // SAFETY: MLX calls it in `apply` alone, to build a graph, and keeps the graph only.
        let closure = unsafe { Closure::new(&mut function) };
        let compiled = closure.transformed(|to, from| {
            let shapeless = false;
            // SAFETY: the handles are those that `transformed` passes, and MLX copies the numbers.
            unsafe { mlx_sys::mlx_detail_compile(to, from, name, shapeless, variant.as_ptr(), variant.len()) }
        })?;
        // A graph that was begun would be taken for a whole one.
        compiled.apply(inputs).inspect_err(|_| erase(name))
    }

    fn make_room(&self, name: usize, variant: &[u64], inputs: &[Array]) {
        // Each shape after its length, so that no two lists of shapes look alike.
        let shapes = inputs.iter().flat_map(|x| [x.ndim() as u64].into_iter().chain(dims(x)));
        let key: Vec<u64> = variant.iter().copied().chain(shapes).collect();
        let mut known = self.known.borrow_mut();
        if known.len() == MAX_GRAPHS && !known.contains(&key) {
            known.clear();
            erase(name);
        }
        known.insert(key);
    }

    fn name(&self) -> Option<usize> {
        self.name.as_deref().map(|name| std::ptr::from_ref(name).addr())
    }
}

impl Drop for Graphs {
    fn drop(&mut self) {
        self.name().into_iter().for_each(erase);
    }
}

fn dims(x: &Array) -> impl Iterator<Item = u64> {
    x.shape().iter().map(|&dim| u64::from(dim.unsigned_abs()))
}

/// Removes all graphs of the function with the key `name`.
fn erase(name: usize) {
    // SAFETY: the handle is made, used and freed here; a name that MLX does not know is nothing to it.
    unsafe {
        let mut cache = mlx_sys::mlx_compile_cache { ctx: std::ptr::null_mut() };
        if mlx_sys::mlx_detail_compile_cache(&raw mut cache) == 0 {
            mlx_sys::mlx_detail_compile_erase(cache, name);
            mlx_sys::mlx_compile_cache_free(cache);
        }
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::error::Exception;

    use super::*;
    use crate::eval;
    use crate::softmax::softmax;

    fn row(values: &[f32]) -> Array {
        Array::from_slice(values, &[values.len() as i32])
    }

    fn values(x: &Array) -> Vec<f32> {
        eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn a_graph_is_built_once_for_each_shape_and_variant() {
        let graphs = Graphs::new(true).unwrap();
        let (mut calls, held) = (0, row(&[10.0]));
        let mut of = |variant: u64, x: &[f32]| {
            let function = |x: &[Array]| {
                calls += 1;
                Ok(vec![softmax(&x[0])?.multiply(&held)?.add(Array::from_f32(variant as f32))?])
            };
            let outputs = graphs.call(&[variant], &[row(x)], function).unwrap();
            values(&outputs[0])
        };
        for x in [0.0, 1.0, 2.0] {
            assert_eq!(of(1, &[x, x]), [6.0, 6.0]);
        }
        assert_eq!(of(2, &[1.0, 1.0]), [7.0, 7.0]);
        assert_eq!(of(2, &[1.0]), [12.0]);
        assert_eq!(of(1, &[3.0, 3.0]), [6.0, 6.0]);
        assert_eq!(calls, 3);
    }

    #[test]
    fn room_is_made_for_new_shapes() {
        let graphs = Graphs::new(true).unwrap();
        let mut calls = 0;
        let mut of = |length: usize| {
            let outputs = graphs.call(&[], &[row(&vec![1.0; length])], |x| {
                calls += 1;
                Ok(vec![x[0].sum(None)?])
            });
            assert_eq!(values(&outputs.unwrap()[0]), [length as f32]);
            calls
        };
        for length in 1..=MAX_GRAPHS {
            assert_eq!(of(length), length);
        }
        assert_eq!(of(1), MAX_GRAPHS);
        assert_eq!(of(MAX_GRAPHS + 1), MAX_GRAPHS + 1);
        assert_eq!(of(1), MAX_GRAPHS + 2);
    }

    #[test]
    fn errors_come_back_and_leave_nothing_behind() {
        let graphs = Graphs::new(true).unwrap();
        let x = [row(&[2.0])];
        let error = graphs.call(&[], &x, |_| Err(Exception::custom("no such thing"))).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let outputs = graphs.call(&[], &x, |x| Ok(vec![x[0].square()?])).unwrap();
        assert_eq!(values(&outputs[0]), [4.0]);
    }
}
