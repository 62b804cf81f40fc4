//! A pass of a model as a list of its kernels, run again without building and walking its graph: with one
//! token, that takes a good part of the time of the kernels themselves.
//!
//! A tape knows of kernels of our own only, so it exists only for a pass that consists of nothing else but
//! views, and only on the CPU.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Arc;

use mlx_rs::Array;
use mlx_sys::eat_buffer;

use super::element::widened;
use super::op::{self, AnyOp};
use crate::Result;

/// A node that was built, with its operands.
struct Note {
    op: Arc<dyn AnyOp>,
    inputs: Vec<Array>,
    outputs: Vec<Array>,
}

thread_local! {
    /// What this thread builds, while it records.
    static NOTES: RefCell<Option<Vec<Note>>> = const { RefCell::new(None) };
}

/// Notes a node if the thread records.
pub(super) fn note<'a, O: AnyOp + 'static>(node: impl FnOnce() -> (Arc<O>, &'a [&'a Array], &'a [Array])) {
    NOTES.with_borrow_mut(|notes| {
        if let Some(notes) = notes {
            let (op, inputs, outputs) = node();
            let inputs = inputs.iter().map(|&array| array.clone()).collect();
            notes.push(Note { op, inputs, outputs: outputs.to_vec() });
        }
    });
}

/// Nodes that were built, to become a [`Tape`] once they are evaluated.
pub struct Recording(Vec<Note>);

/// Calls `build` and notes the nodes it builds.
pub fn record<T>(build: impl FnOnce() -> T) -> (T, Recording) {
    NOTES.set(Some(Vec::new()));
    let result = build();
    (result, Recording(NOTES.take().unwrap_or_default()))
}

impl Recording {
    /// The tape of a pass from `ids` to `result`, both evaluated. `constants` are what else the pass may read.
    /// `None` where the pass has parts that a tape cannot repeat.
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
        for Note { op, inputs, outputs } in self.0 {
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
            tape.steps.push(Step { op, inputs: buffers, outputs: written });
            tape.arrays.extend(inputs.into_iter().chain(outputs));
        }
        let wrote = |step: &Step| step.outputs.iter().any(|output| output.data == tape.result.data);
        tape.steps.iter().any(wrote).then_some(tape)
    }
}

/// Kernels in order, with the memory they read and write.
pub struct Tape {
    steps: Vec<Step>,
    runs_left: usize,
    ids: eat_buffer,
    result: eat_buffer,
    /// Whose memory the buffers are.
    arrays: Vec<Array>,
}

struct Step {
    op: Arc<dyn AnyOp>,
    inputs: Vec<eat_buffer>,
    outputs: Vec<eat_buffer>,
}

impl Tape {
    /// Puts `ids` in the place of those of the last run and returns the result's numbers, row-major. `None`
    /// where a cache has no room left; nothing has happened then.
    ///
    /// # Errors
    /// As many `ids` as were recorded are expected; the message of a kernel that panicked.
    pub fn run(&mut self, ids: &[u32]) -> Result<Option<Vec<f32>>> {
        if self.runs_left == 0 {
            return Ok(None);
        }
        self.runs_left -= 1;
        // SAFETY: `arrays` keeps all memory alive, shapes included, and `tape` checked that it is row-major.
        // Nobody else reads or writes it while `self` is borrowed: outputs are of nodes of this tape alone, and
        // MLX is idle once it has evaluated them.
        unsafe {
            op::overwrite(&self.ids, ids)?;
            for step in &self.steps {
                step.op.advance();
                op::run(&*step.op, &step.inputs, &step.outputs);
            }
            op::failure()?;
            Ok(Some(widened(&op::operand(&self.result).data).to_vec()))
        }
    }
}

/// Address of the elements of an evaluated array.
fn place(array: &Array) -> Option<usize> {
    buffer(array).map(|buffer| buffer.data as usize)
}

/// An evaluated, row-major array.
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
