//! Replay of a forward pass as a list of kernels, without rebuilding its graph. For one token, building and traversing
//! the graph takes a good part of the time of the kernels themselves.
//!
//! A pass can be replayed on the CPU if it consists of this crate's operations and views only.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Arc;

use mlx_rs::Array;
use mlx_sys::eat_buffer;

use super::buffer::{operand, overwrite};
use super::eval::{failure, run};
use super::op::AnyOp;
use crate::Result;
use crate::runtime::element::widened;

/// A node of the graph with its operands.
struct Node {
    op: Arc<dyn AnyOp>,
    inputs: Vec<Array>,
    outputs: Vec<Array>,
}

thread_local! {
    /// Nodes built by this thread since the start of a recording, if there is one.
    static NODES: RefCell<Option<Vec<Node>>> = const { RefCell::new(None) };
}

/// Appends a node to this thread's recording, if there is one.
pub(crate) fn record_node<'a, O: AnyOp + 'static>(
    node: impl FnOnce() -> (Arc<O>, &'a [&'a Array], &'a [Array]),
) {
    NODES.with_borrow_mut(|nodes| {
        if let Some(nodes) = nodes {
            let (op, inputs, outputs) = node();
            let inputs = inputs.iter().map(|&array| array.clone()).collect();
            nodes.push(Node { op, inputs, outputs: outputs.to_vec() });
        }
    });
}

/// Recorded nodes, which become a [`Tape`] once they are evaluated.
pub struct Recording(Vec<Node>);

/// Calls `build` and records the nodes it adds to the graph on this thread.
pub fn record<T>(build: impl FnOnce() -> T) -> (T, Recording) {
    /// Ends the recording, also when `build` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            NODES.take();
        }
    }
    let _end = End;
    NODES.set(Some(Vec::new()));
    let result = build();
    (result, Recording(NODES.take().unwrap_or_default()))
}

impl Recording {
    /// Returns the tape of a pass from `ids` (uint32) to `result`, both evaluated. `constants` are the other arrays
    /// that the pass may read, such as parameters.
    ///
    /// Returns `None` if the pass contains operations that cannot be replayed.
    pub fn tape<'a>(
        self,
        ids: &Array,
        constants: impl IntoIterator<Item = &'a Array>,
        result: &Array,
    ) -> Option<Tape> {
        let mut known: HashSet<usize> = constants.into_iter().filter_map(place).collect();
        known.insert(place(ids)?);
        let mut tape = Tape {
            steps: Vec::new(),
            runs_left: usize::MAX,
            ids: buffer(ids)?,
            result: buffer(result)?,
            arrays: vec![ids.clone(), result.clone()],
        };
        for Node { op, inputs, outputs } in self.0 {
            let continues = op.runs_left() < usize::MAX;
            let donors = op.donors(inputs.len(), outputs.len());
            let mut buffers = inputs.iter().map(buffer).collect::<Option<Vec<_>>>()?;
            for (i, input) in buffers.iter_mut().enumerate() {
                if continues && donors.contains(&Some(i)) {
                    (input.data, input.size) = (std::ptr::null_mut(), 0);
                } else if !known.contains(&(input.data as usize)) {
                    return None;
                }
            }
            let written = outputs.iter().map(buffer).collect::<Option<Vec<_>>>()?;
            // Memory that two nodes write would not hold what the first one left.
            if !written.iter().all(|output| known.insert(output.data as usize)) {
                return None;
            }
            tape.runs_left = tape.runs_left.min(op.runs_left());
            // What outputs continue is not read again: without it a cache is held once.
            let read = inputs.into_iter().zip(&buffers).filter(|(_, buffer)| !buffer.data.is_null());
            tape.arrays.extend(read.map(|(input, _)| input).chain(outputs));
            tape.steps.push(Step { op, inputs: buffers, outputs: written });
        }
        let wrote = |step: &Step| step.outputs.iter().any(|output| output.data == tape.result.data);
        tape.steps.iter().any(wrote).then_some(tape)
    }
}

/// A replayable pass: kernels in order, with the buffers they read and write.
pub struct Tape {
    steps: Vec<Step>,
    runs_left: usize,
    ids: eat_buffer,
    result: eat_buffer,
    /// Owners of the buffers.
    arrays: Vec<Array>,
}

// SAFETY: its pointers are into `arrays`, which it owns, and are followed only while it is borrowed mutably; operations
// may run on any thread.
unsafe impl Send for Tape {}

struct Step {
    op: Arc<dyn AnyOp>,
    inputs: Vec<eat_buffer>,
    outputs: Vec<eat_buffer>,
}

impl Tape {
    /// Replays the pass for other `ids` and returns the result, row-major. Returns `None`, without any effect, if a
    /// cache is full.
    ///
    /// # Errors
    /// Another number of `ids` than recorded, or the message of a kernel that panicked.
    pub fn run(&mut self, ids: &[u32]) -> Result<Option<Vec<f32>>> {
        if self.runs_left == 0 {
            return Ok(None);
        }
        self.runs_left -= 1;
        // SAFETY: `arrays` keeps all memory alive, shapes included, and `tape` checked that it is row-major.
        // Nobody else reads or writes it while `self` is borrowed: outputs are of nodes of this tape alone, and
        // MLX is idle once it has evaluated them.
        unsafe {
            overwrite(&self.ids, ids)?;
            for step in &self.steps {
                step.op.advance();
                run(&*step.op, &step.inputs, &step.outputs);
            }
            failure()?;
            Ok(Some(widened(&operand(&self.result).data).to_vec()))
        }
    }
}

/// Address of the elements of an evaluated, row-major array.
fn place(array: &Array) -> Option<usize> {
    buffer(array).map(|buffer| buffer.data as usize)
}

/// Buffer of an array; `None` unless it is evaluated and row-major.
fn buffer(array: &Array) -> Option<eat_buffer> {
    let handle = array.as_ptr();
    let (mut evaluated, mut row_major) = (false, false);
    // SAFETY: the handle is live; the address is taken only where there is one.
    let data = unsafe {
        mlx_sys::_mlx_array_is_available(&raw mut evaluated, handle);
        if !evaluated {
            return None;
        }
        mlx_sys::_mlx_array_is_row_contiguous(&raw mut row_major, handle);
        mlx_sys::mlx_array_data_uint8(handle).cast_mut().cast::<c_void>()
    };
    row_major.then(|| eat_buffer {
        data,
        size: array.size(),
        shape: array.shape().as_ptr(),
        ndim: array.ndim(),
        dtype: array.dtype().into(),
    })
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;

    use super::*;
    use crate::attention::{Mask, Scoring};
    use crate::cached_attention::{AttentionConfig, KeyValueBuffers, cached_attention};
    use crate::embedding::embedding;
    use crate::error::MlxResult;
    use crate::eval;
    use crate::linear::{Layer, Weight, linears};
    use crate::testing::{draw, values};

    const WIDTH: i32 = 16;
    const QUERY: AttentionConfig = AttentionConfig {
        heads: 1,
        kv_heads: 1,
        head_dim: WIDTH,
        rotation: None,
        scoring: Scoring::plain(0.25, Mask::Causal),
    };

    /// A table of tokens and four matrices.
    fn parameters() -> Vec<Array> {
        let shapes = [[50, WIDTH], [WIDTH, WIDTH], [WIDTH, WIDTH], [WIDTH, WIDTH], [50, WIDTH]];
        shapes.iter().zip(0..).map(|(shape, seed)| draw(shape, Dtype::Float32, seed)).collect()
    }

    fn pass(parameters: &[Array], ids: &Array, store: &mut KeyValueBuffers) -> MlxResult<Array> {
        let x = embedding(&parameters[0], ids)?;
        let layers: Vec<Layer> = parameters[1..4].iter().map(|w| Layer::plain(Weight::Dense(w))).collect();
        let qkv = linears(&x, &layers)?;
        // A view of the same memory, as models have them.
        let v = qkv[2].reshape(&[1, 1, 1, WIDTH])?;
        let y = cached_attention([&qkv[0], &qkv[1], &v], QUERY, store)?;
        Ok(linears(&y, &[Layer::plain(Weight::Dense(&parameters[4]))])?.remove(0))
    }

    fn ids(token: u32) -> Array {
        Array::from_slice(&[token], &[1, 1])
    }

    fn wide(numbers: &[f32]) -> Vec<f64> {
        numbers.iter().map(|&x| f64::from(x)).collect()
    }

    #[test]
    fn repeats_a_pass_until_the_cache_is_full() {
        let parameters = parameters();
        let (mut ours, mut theirs) = (KeyValueBuffers::default(), KeyValueBuffers::default());
        let mut tape: Option<Tape> = None;
        let (mut taped, mut recorded) = (0, 0);
        for token in (0..300).map(|i| i * 7 % 50) {
            let expected = pass(&parameters, &ids(token), &mut theirs).unwrap();
            let repeated = tape.as_mut().and_then(|tape| tape.run(&[token]).unwrap());
            let logits = if let Some(logits) = repeated {
                ours.len += 1;
                taped += 1;
                wide(&logits)
            } else {
                let place = ids(token);
                let (logits, recording) = record(|| pass(&parameters, &place, &mut ours).unwrap());
                eval([&logits].into_iter().chain(&ours.k).chain(&ours.v)).unwrap();
                tape = recording.tape(&place, &parameters, &logits);
                assert!(tape.is_some());
                recorded += 1;
                values(&logits)
            };
            assert_eq!(logits, values(&expected), "after {} tokens", theirs.len);
        }
        // The first token has nothing to continue, and one that finds 256 positions taken has no room.
        assert_eq!((taped, recorded), (297, 3));
        assert!(tape.unwrap().run(&[1, 2]).is_err());
    }

    #[test]
    fn a_pass_with_other_parts_has_no_tape() {
        let parameters = parameters();
        let refused = |known: &[Array], build: &dyn Fn(&Array, &mut KeyValueBuffers) -> Array| {
            let (place, mut store) = (ids(1), KeyValueBuffers::default());
            let (result, recording) = record(|| build(&place, &mut store));
            eval([&result]).unwrap();
            recording.tape(&place, known, &result).is_none()
        };
        let whole = |ids: &Array, store: &mut KeyValueBuffers| pass(&parameters, ids, store).unwrap();
        assert!(!refused(&parameters, &whole));
        assert!(refused(&parameters[1..], &whole), "a parameter that nobody vouches for");
        assert!(refused(&parameters, &|ids, store| whole(ids, store).square().unwrap()), "an end of MLX's");
        let doubled = |ids: &Array, _: &mut KeyValueBuffers| {
            let x = embedding(&parameters[0], ids).unwrap();
            let x = x.add(&x).unwrap();
            linears(&x, &[Layer::plain(Weight::Dense(&parameters[1]))]).unwrap().remove(0)
        };
        assert!(refused(&parameters, &doubled), "a part of MLX's in the middle");
    }
}
