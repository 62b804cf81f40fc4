//! What all families share: tokens in, blocks, a norm, a head.

use std::collections::BTreeSet;

use mlx_macros::ModuleParameters;
use mlx_rs::error::Exception;
use mlx_rs::module::ModuleParameters;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{broadcast_to, concatenate};
use mlx_rs::{Array, Dtype};

use super::shape::Shape;
use super::{Checkpointing, Model, experts};
use crate::kernels::checkpoint::checkpoint;
use crate::kernels::linear::Layer;
use crate::nn::layer::Linears;
use crate::nn::prompt::Place;
use crate::nn::quantized::Slots;
use crate::nn::{
    self, Cache, Context, Embedding, KvCache, LayerCache, Linear, Network, Prompt, Residual, RmsNorm,
    Segments,
};
use crate::params::Tensors;
use crate::{Result, kernels};

/// One layer of a decoder.
pub(super) trait Block: ModuleParameters + Clone + Send + 'static {
    /// Whether the host looks at numbers on the way.
    const DECIDES_ON_HOST: bool = false;

    /// Adds to `x`: `[batch, time, hidden]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()>;

    /// Every linear layer, in order.
    fn linears(&mut self) -> Linears<'_>;

    /// An empty cache of this layer for a text of which `planned` tokens are known.
    fn new_cache(&self, planned: i32) -> LayerCache {
        LayerCache::Kv(KvCache::new(planned))
    }
}

/// Parameters that one tensor of a checkpoint holds, with their names.
pub(super) type Adopted = Vec<(String, Array)>;

/// How a family's checkpoints differ from its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// One tensor of a checkpoint as the parameters it holds.
    pub(super) adopt: fn(&str, Array) -> nn::Result<Adopted>,
    /// All parameters as the tensors of a checkpoint.
    pub(super) export: fn(Tensors) -> nn::Result<Tensors>,
    /// What mlx-lm calls a layer, and its place where mlx-lm stacks experts.
    pub(super) mlx_name: fn(&str) -> (String, Option<usize>),
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            adopt: |name, tensor| Ok(vec![(name.to_owned(), tensor)]),
            export: Ok,
            mlx_name: |path| (path.to_owned(), None),
        }
    }
}

/// `[batch, time]` of ids → `[batch, time, vocab]`.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct Decoder<B: Block> {
    #[param]
    model: Stack<B>,
    #[param]
    lm_head: Option<Linear>,
    /// Virtual tokens before every text.
    #[param]
    prompt: Option<Prompt>,
    /// Heads of keys and values, and numbers per head.
    keys: [i32; 2],
    /// Factor of the embeddings.
    embedding_scale: Option<f32>,
    softcap: Option<f32>,
    turning_point: Option<i32>,
    layout: Layout,
    checkpointing: Option<Checkpointing>,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Stack<B: Block> {
    #[param]
    embed_tokens: Embedding,
    #[param]
    layers: Vec<B>,
    #[param]
    norm: RmsNorm,
}

impl<B: Block> Decoder<B> {
    /// A model of zeros to be filled from a checkpoint; `block` makes the block of each number.
    ///
    /// # Errors
    /// What MLX raises.
    pub(super) fn new(shape: &Shape, block: impl FnMut(usize) -> nn::Result<B>) -> Result<Self> {
        let layers: nn::Result<Vec<B>> = (0..shape.layers).map(block).collect();
        let head = if shape.tied { None } else { Some(Linear::new(shape.hidden, shape.vocab, false)?) };
        Ok(Self {
            model: Stack {
                embed_tokens: Embedding::new(shape.vocab, shape.hidden)?,
                layers: layers?,
                norm: shape.norm(shape.hidden)?,
            },
            lm_head: head,
            prompt: None,
            keys: [shape.kv_heads, shape.head_dim],
            embedding_scale: None,
            softcap: None,
            turning_point: None,
            layout: Layout::default(),
            checkpointing: None,
        })
    }

    /// With embeddings multiplied by `scale`.
    pub(super) fn with_embedding_scale(self, scale: f32) -> Self {
        Self { embedding_scale: Some(scale), ..self }
    }

    /// With logits capped to `±softcap`.
    pub(super) fn with_softcap(self, softcap: Option<f32>) -> Self {
        Self { softcap, ..self }
    }

    /// With texts that turn otherwise where they are longer than this.
    pub(super) fn with_turning_point(self, turning_point: Option<i32>) -> Self {
        Self { turning_point, ..self }
    }

    /// With checkpoints that differ from the parameters.
    pub(super) fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// What the head takes, of `ids`: `[batch, time]`.
    fn read(&self, ids: &Array, context: Context<Cache>) -> nn::Result<Array> {
        let x = self.embed(ids)?;
        let prompt = match (&self.prompt, &context) {
            // A cache has read them.
            (None, _) | (_, Context::Cached(_)) => return self.blocks(x, context),
            (Some(prompt), Context::Whole) => prompt,
            (Some(_), _) => return Err(Exception::custom("virtual tokens before rows of several texts")),
        };
        if let Place::Keys { .. } = prompt.place {
            return self.blocks(x, Context::Prefixed(&prompt.keys()?));
        }
        let first = prompt.forward()?.as_dtype(x.dtype())?;
        let first = broadcast_to(first, &[x.dim(0), prompt.len(), x.dim(2)])?;
        self.blocks(concatenate(&[first, x], 1)?, context)?.try_index((.., prompt.len()..))
    }

    /// What the head takes, of embeddings `x`: `[batch, time, hidden]`.
    fn blocks(&self, x: Array, mut context: Context<Cache>) -> nn::Result<Array> {
        let mut x = Residual::new(x);
        let segments = match context {
            Context::Cached(_) | Context::Prefixed(_) => None,
            Context::Whole => Some(None),
            Context::Segmented(segments) => Some(Some(segments)),
        };
        if let Some((checkpointing, segments)) = self.checkpointing.as_ref().zip(segments) {
            let every = checkpointing.every.max(1);
            for (i, blocks) in self.model.layers.chunks(every).enumerate() {
                x = recomputed(x, segments, blocks, i * every, &checkpointing.trained)?;
            }
            return x.normed(&self.model.norm);
        }
        for (i, block) in self.model.layers.iter().enumerate() {
            block.forward(&mut x, context.layer(i))?;
        }
        x.normed(&self.model.norm)
    }
}

impl<B: Block> Network for Decoder<B> {
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        for (i, block) in self.model.layers.iter_mut().enumerate() {
            for (name, layer) in block.linears() {
                visit(&format!("model.layers.{i}.{name}"), layer)?;
            }
        }
        Ok(())
    }

    fn visit_packable(&mut self, visit: &mut dyn FnMut(&str, Slots) -> Result<()>) -> Result<()> {
        visit("model.embed_tokens", self.model.embed_tokens.slots())?;
        self.visit_linears(&mut |path, layer| visit(path, layer.slots()))?;
        self.lm_head.as_mut().map_or(Ok(()), |head| visit("lm_head", head.slots()))
    }

    fn dtype(&self) -> Dtype {
        self.model.norm.weight.dtype()
    }

    fn ignores(&self, key: &str) -> bool {
        // Old checkpoints store the RoPE table; tied ones may repeat the embedding as head.
        key.ends_with("rotary_emb.inv_freq") || (key.starts_with("lm_head.") && self.lm_head.is_none())
    }

    fn adopt(&self, name: &str, tensor: Array) -> nn::Result<Adopted> {
        (self.layout.adopt)(name, tensor)
    }

    fn export(&self, parameters: Tensors) -> nn::Result<Tensors> {
        experts::restack((self.layout.export)(parameters)?, self.layout.mlx_name)
    }

    fn mlx_name(&self, path: &str) -> (String, Option<usize>) {
        (self.layout.mlx_name)(path)
    }
}

impl<B: Block> Model for Decoder<B> {
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array> {
        self.read(ids, cache.map_or(Context::Whole, Context::Cached))
    }

    fn hidden_segmented(&self, ids: &Array, segments: &Segments) -> nn::Result<Array> {
        self.read(ids, Context::Segmented(segments))
    }

    fn head(&self) -> Layer<'_> {
        self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.as_linear(), Linear::operands)
    }

    fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    fn embed(&self, ids: &Array) -> nn::Result<Array> {
        let x = self.model.embed_tokens.forward(ids, self.dtype())?;
        match self.embedding_scale {
            Some(scale) => x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?),
            None => Ok(x),
        }
    }

    fn new_cache(&self, planned: i32) -> Result<Cache> {
        let more = self.prompt.as_ref().map_or(0, Prompt::len);
        let layers = self.model.layers.iter().map(|block| block.new_cache(planned + more));
        let mut cache = Cache { layers: layers.collect() };
        let Some(prompt) = &self.prompt else { return Ok(cache) };
        if let Place::Embeddings { hidden } = prompt.place {
            let x = prompt.forward()?.as_dtype(self.dtype())?.reshape(&[1, more, hidden])?;
            self.blocks(x, Context::Cached(&mut cache))?;
        }
        for (layer, [k, v]) in cache.layers.iter_mut().zip(prompt.keys()?) {
            layer.kv()?.update(&k.as_dtype(self.dtype())?, &v.as_dtype(self.dtype())?)?;
        }
        kernels::eval(cache.arrays())?;
        Ok(cache)
    }

    fn decides_on_host(&self) -> bool {
        B::DECIDES_ON_HOST
    }

    fn turning_point(&self) -> Option<i32> {
        let more = self.prompt.as_ref().map_or(0, Prompt::len);
        self.turning_point.map(|longest| (longest - more).max(0))
    }

    fn prompt_mut(&mut self) -> &mut Option<Prompt> {
        &mut self.prompt
    }

    fn embeddings_place(&self) -> Place {
        Place::Embeddings { hidden: self.model.norm.weight.dim(0) }
    }

    fn keys_place(&self) -> Option<Place> {
        let attends = |block: &B| matches!(block.new_cache(0), LayerCache::Kv(_));
        let [kv_heads, head_dim] = self.keys;
        let layers = self.model.layers.len() as i32;
        self.model.layers.iter().all(attends).then_some(Place::Keys { layers, kv_heads, head_dim })
    }

    fn set_checkpointing(&mut self, checkpointing: Option<Checkpointing>) {
        self.checkpointing = checkpointing;
    }

    fn embedding_mut(&mut self) -> &mut Embedding {
        &mut self.model.embed_tokens
    }

    fn num_layers(&self) -> usize {
        self.model.layers.len()
    }

    fn vocab_size(&self) -> i32 {
        self.model.embed_tokens.table().shape().0
    }
}

/// `x` after `blocks`, the first of which is number `first`, of which nothing else is kept for the gradient of `x` and of
/// the parameters in `trained`.
fn recomputed<B: Block>(
    x: Residual,
    segments: Option<&Segments>,
    blocks: &[B],
    first: usize,
    trained: &BTreeSet<String>,
) -> nn::Result<Residual> {
    let mut inputs = x.into_parts();
    let streams = inputs.len();
    // Names of the trained parameters of each block, whose values follow the streams in this order.
    let mut names: Vec<Vec<String>> = Vec::with_capacity(blocks.len());
    for (i, block) in blocks.iter().enumerate() {
        let prefix = format!("model.layers.{}.", first + i);
        let parameters = block.parameters().flatten();
        let of_block = trained
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        for name in &of_block {
            inputs.push((*parameters.get(name.as_str()).ok_or_else(no_part)?).clone());
        }
        names.push(of_block);
    }
    let (blocks, segments) = (blocks.to_vec(), segments.cloned());
    let outputs = checkpoint(&inputs, move |inputs| {
        let mut blocks = blocks.clone();
        let (parts, mut values) = inputs.split_at(streams);
        for (block, names) in blocks.iter_mut().zip(&names) {
            let mut parameters = block.parameters_mut().flatten();
            for name in names {
                let (Some((value, rest)), Some(slot)) =
                    (values.split_first(), parameters.get_mut(name.as_str()))
                else {
                    return Err(no_part());
                };
                **slot = value.clone();
                values = rest;
            }
        }
        let mut x = Residual::from_parts(parts).ok_or_else(no_part)?;
        for block in &blocks {
            block.forward(&mut x, segments.as_ref().map_or(Context::Whole, Context::Segmented))?;
        }
        Ok(x.into_parts())
    })?;
    Residual::from_parts(&outputs).ok_or_else(no_part)
}

fn no_part() -> Exception {
    Exception::custom("a checkpointed block lacks an input")
}
