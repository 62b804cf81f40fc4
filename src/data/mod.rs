//! Training data for language models: from files on disk to padded batches of token ids. Independent of MLX.
//!
//! ```text
//! train.jsonl ── read_splits ──► LocatedRow ── tokenize ──► Sample
//!   Sample ── pack ──► Examples ── epoch_batches, batch ──► Batch
//! ```
//!
//! Training rows may also stay on disk: [`stream_splits`] indexes them, and [`Megabatches`] reads a
//! [`StreamingDataset`] in parts, each of which holds [`Examples`] and their batches.
//!
//! | folder       | contents                                                                    |
//! |--------------|-----------------------------------------------------------------------------|
//! | `rows`       | the schemas of a row, parsed from JSON: text, completion, chat, pairs        |
//! | `formats`    | readers of jsonl, json, csv and parquet files                                |
//! | `splits`     | training, validation and test rows of one or several sources                 |
//! | `chat`       | chat templates, and which part of a rendered conversation is the assistant's |
//! | `text`       | tokenizers, also of captions, and incremental decoding                       |
//! | `images`     | decoding of images and preprocessing                                         |
//! | `samples`    | rows as token ids with a loss mask                                           |
//! | `batches`    | packing, order of an epoch, collation                                        |
//! | `streaming`  | datasets that stay on disk                                                   |
//! | `coreset`    | a few rows that stand for all of them, by their embeddings                   |
//! | `statistics` | lengths, duplicates and entropy of a dataset                                 |

mod batches;
mod chat;
mod coreset;
mod formats;
mod images;
mod rows;
mod samples;
mod splits;
mod statistics;
mod streaming;
mod text;

#[cfg(test)]
pub(crate) mod fixture;

pub use batches::{Batch, Examples, Pairs, collate, epoch_batches, pack};
pub use chat::{ChatTemplate, Conversation, Rendered, Renderer, RendererProcess, Rendering, Request};
pub use coreset::{Embeddings, coverage, facility_location};
pub use formats::{read_rows, read_rows_and_json, tokens_file};
pub use images::{ImageProcessor, ImageSource, ImageTexts, Pixels, read_image_texts};
pub use rows::{Answer, Chat, Columns, Instruction, LocatedRow, Pair, Position, Prompt, Row, TokenRow};
pub use samples::{Labels, Sample, SplitReport, TokenizedSplit, encode_rows, tokenize};
pub use splits::{SourceFiles, Splits, read_splits};
pub use statistics::{
    DataReport, ExamplePart, HistogramBin, LengthStatistics, PairStatistics, SplitStatistics, describe,
};
pub use streaming::{IndexedRows, Megabatch, Megabatches, StreamingDataset, stream_splits};
pub use text::{CaptionTokenizer, Contents as TokenizerContents, DecodeStream, Tokenizer};
