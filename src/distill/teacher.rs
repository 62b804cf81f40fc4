//! The teacher.

use std::io::Read as _;
use std::path::Path;

use mlx_rs::{Array, Dtype};
use twox_hash::xxhash3_128::Hasher;

use super::positions::TeacherHead;
use crate::data::Batch;
use crate::io::{checkpoint, gguf, shards};
use crate::models::{self, Model, check_tokens};
use crate::nn::Segments;
use crate::train::task::inputs::Inputs;
use crate::{Error, Result, files, kernels, nn};

/// A loaded teacher.
pub(super) struct Teacher {
    model: Box<Model>,
}

impl Teacher {
    /// Loads the model in `folder`, in `dtype` or else in float32 on a CPU and in that of the checkpoint on a GPU.
    ///
    /// # Errors
    /// A model that cannot be loaded.
    pub(super) fn load(folder: &Path, dtype: Option<Dtype>) -> Result<Self> {
        let dtype = dtype.or_else(|| kernels::on_cpu().then_some(Dtype::Float32));
        Ok(Self { model: models::load(folder, dtype, None)? })
    }

    /// The model.
    pub(super) fn model(&self) -> &Model {
        self.model.as_ref()
    }

    /// Its head, for hidden states.
    pub(super) fn head(&self) -> TeacherHead {
        let (parts, arrays) = self.model.head().parts();
        TeacherHead::Live { parts, arrays, softcap: self.model.softcap() }
    }

    /// Computes the hidden states before the head for the `ids` and segments of `inputs`, `[rows, time, hidden]`, evaluated.
    ///
    /// # Errors
    /// A token that it does not know; errors from MLX.
    pub(super) fn hidden(&self, ids: &[i32], inputs: &Inputs) -> Result<Array> {
        let unsigned: Vec<u32> = ids.iter().map(|id| id.unsigned_abs()).collect();
        check_tokens(&unsigned, self.model.vocab_size())
            .map_err(|error| Error::ModelLoading(format!("teacher: {error}")))?;
        let hidden = self.hidden_of(inputs)?;
        if kernels::on_cpu() {
            kernels::eval([&hidden])?;
        } else {
            kernels::async_eval([&hidden])?;
        }
        Ok(hidden)
    }

    fn hidden_of(&self, inputs: &Inputs) -> nn::Result<Array> {
        let ids = inputs.get("ids")?;
        let Some(longest) = inputs.constant("longest_segment") else { return self.model.hidden(ids, None) };
        let starts = inputs.get("segment_starts")?.clone();
        let positions = inputs.get("segment_positions")?.clone();
        self.model.hidden_segmented(ids, &Segments { starts, positions, longest })
    }
}

/// What [`Teacher::hidden`] reads of `batch`.
///
/// # Errors
/// Errors from MLX.
pub(super) fn inputs(batch: &Batch) -> Result<Inputs> {
    let shape = [batch.rows as i32, batch.time as i32];
    let mut inputs = Inputs::default();
    inputs.insert("ids", Array::from_slice(&batch.ids, &shape));
    if let Some(starts) = &batch.starts {
        let Segments { starts, positions, longest } = Segments::new(starts, shape[0], shape[1])?;
        inputs.insert("segment_starts", starts);
        inputs.insert("segment_positions", positions);
        inputs.insert_constant("longest_segment", longest);
    }
    Ok(inputs)
}

/// Hash of the configuration and the weights of a model, which is not loaded.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn content_digest(folder: &Path) -> Result<u128> {
    let mut hasher = Hasher::new();
    hasher.write(checkpoint::config(folder)?.to_string().as_bytes());
    let weights = if gguf::is_file(folder) { vec![folder.to_owned()] } else { shards::files(folder)? };
    let mut buffer = vec![0; 1 << 20];
    for path in weights {
        let mut file = files::open(&path).map_err(Error::io("read", &path))?;
        loop {
            match file.read(&mut buffer).map_err(Error::io("read", &path))? {
                0 => break,
                count => hasher.write(&buffer[..count]),
            }
        }
    }
    Ok(hasher.finish_128())
}
