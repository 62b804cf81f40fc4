//! Calibration: what the layers of a model see on example text, block by block, so that only one block is observed at a
//! time.
//!
//! ```text
//! rows ── CalibrationText::read ──► sequences ── BlockStream::start ──► block 0
//!   block i ── observe ──► inputs of its layers ── SecondMoments, …
//!   block i, changed ── advance ──► block i + 1
//! ```
//!
//! And [`embed_rows`], by which rows are chosen that stand for others.

mod block_stream;
mod checkpoint;
mod inputs;
mod inverse_factor;
mod matrix;
mod mean_squares;
mod reference;
mod row_embeddings;
mod second_moments;
mod text;

pub use block_stream::{BlockStream, Input};
pub use checkpoint::{BlockCheckpoints, FinishedBlock};
pub use inputs::{Inputs, observe};
pub use inverse_factor::{InverseFactor, columns_in_order};
pub use matrix::{Matrix, check_finite, for_each_part, with_weight};
pub use mean_squares::{column_squares, mean_squares};
pub use reference::{Reference, hold_out};
pub use row_embeddings::embed_rows;
pub use second_moments::SecondMoments;
pub use text::CalibrationText;
