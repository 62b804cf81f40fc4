//! The common structure of all architectures: token embeddings, blocks, a final norm and an output head.

use mlx_macros::ModuleParameters;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{broadcast_to, concatenate};
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::block::Block;
use super::checkpoint_layout::{CheckpointLayout, NamedTensors};
use super::configuration::{Shape, set_head};
use super::experts;
use super::language_model::LanguageModel;
use super::outline::Outline;
use super::recompute::recompute_blocks;
use crate::kernels::linear::Weight;
use crate::nn::network::GradientCheckpointing;
use crate::nn::prompt::PromptShape;
use crate::nn::quantized::WeightMut;
use crate::nn::scaling::Scaling;
use crate::nn::units::Units;
use crate::nn::{
    self, Cache, Context, Embedding, Head, Heads, LayerCache, Linear, Network, Overrides, Prompt, Residual,
    RmsNorm, Rope, Segments, Sequences, head,
};
use crate::params::Tensors;
use crate::{Result, kernels};

/// Token ids `[batch, time]` → logits `[batch, time, vocab]`.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct CausalLm<B: Block> {
    #[param]
    model: Backbone<B>,
    #[param]
    lm_head: Option<Linear>,
    /// Soft prompt.
    #[param]
    prompt: Option<Prompt>,
    /// Number of key and value heads, and dimension of each.
    keys: [i32; 2],
    /// Scaling factor of embeddings.
    embedding_scale: Option<f32>,
    softcap: Option<f32>,
    /// All rotations of its layers.
    ropes: Vec<Rope>,
    layout: CheckpointLayout,
    checkpointing: Option<GradientCheckpointing>,
    overrides: Overrides,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Backbone<B: Block> {
    #[param]
    embed_tokens: Embedding,
    #[param]
    layers: Vec<B>,
    #[param]
    norm: RmsNorm,
}

impl<B: Block> CausalLm<B> {
    /// Creates a model with weights of zero; `block` creates the block of an index.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn new(shape: &Shape, block: impl FnMut(usize) -> nn::Result<B>) -> Result<Self> {
        let layers: nn::Result<Vec<B>> = (0..shape.layers).map(block).collect();
        let head = if shape.tied { None } else { Some(new_head(shape.hidden, shape.vocab)?) };
        Ok(Self {
            model: Backbone {
                embed_tokens: Embedding::new(shape.vocab, shape.hidden)?,
                layers: layers?,
                norm: shape.norm(shape.hidden)?,
            },
            lm_head: head,
            prompt: None,
            keys: [shape.kv_heads, shape.head_dim],
            embedding_scale: None,
            softcap: None,
            ropes: shape.ropes(),
            layout: CheckpointLayout::default(),
            checkpointing: None,
            overrides: Overrides::default(),
        })
    }

    /// Scales embeddings by `scale`.
    pub(super) fn with_embedding_scale(self, scale: f32) -> Self {
        Self { embedding_scale: Some(scale), ..self }
    }

    /// Caps logits to `±softcap`.
    pub(super) fn with_softcap(self, softcap: Option<f32>) -> Self {
        Self { softcap, ..self }
    }

    /// Sets the mapping to the tensors of checkpoints.
    pub(super) fn with_layout(self, layout: CheckpointLayout) -> Self {
        Self { layout, ..self }
    }

    /// Number of positions of a sequence of `length` tokens.
    fn with_prompt(&self, length: i32) -> i32 {
        length + self.prompt.as_ref().map_or(0, Prompt::len)
    }

    /// `ids`: `[batch, time]` → hidden states before the output head.
    fn read(&self, ids: &Array, context: Context<Cache>) -> nn::Result<Array> {
        let x = self.embed(ids)?;
        let prompt = match (&self.prompt, &context) {
            // A cache holds the prompt already.
            (None, _) | (_, Context::Cached(_) | Context::Each(_)) => return self.blocks(x, context),
            (Some(prompt), Context::Whole) => prompt,
            (Some(_), _) => return Err(Exception::custom("virtual tokens before rows of several texts")),
        };
        if let PromptShape::KeyValues { .. } = prompt.shape {
            return self.blocks(x, Context::Prefixed(&prompt.key_values()?));
        }
        let first = prompt.forward()?.as_dtype(x.dtype())?;
        let first = broadcast_to(first, &[x.dim(0), prompt.len(), x.dim(2)])?;
        self.blocks(concatenate(&[first, x], 1)?, context)?.try_index((.., prompt.len()..))
    }

    /// Embeddings `x`: `[batch, time, hidden]` → hidden states before the output head.
    fn blocks(&self, x: Array, mut context: Context<Cache>) -> nn::Result<Array> {
        let mut x = Residual::new(x);
        let segments = match context {
            Context::Cached(_) | Context::Each(_) | Context::Prefixed(_) => None,
            Context::Whole => Some(None),
            Context::Segmented(segments) => Some(Some(segments)),
        };
        if let Some((checkpointing, segments)) = self.checkpointing.as_ref().zip(segments) {
            let every = checkpointing.every.max(1);
            for (i, blocks) in self.model.layers.chunks(every).enumerate() {
                x = recompute_blocks(x, segments, blocks, i * every, &checkpointing.trained)?;
            }
            return x.normed(&self.model.norm);
        }
        for (i, block) in self.model.layers.iter().enumerate() {
            block.forward(&mut x, context.layer(i))?;
        }
        x.normed(&self.model.norm)
    }
}

fn new_head(hidden: i32, vocab: i32) -> nn::Result<Linear> {
    Ok(Linear { path: head::PATH.to_owned(), ..Linear::new(hidden, vocab, false)? })
}

impl<B: Block> Network for CausalLm<B> {
    fn is_data_dependent(&self) -> bool {
        B::DATA_DEPENDENT
    }

    fn set_gradient_checkpointing(&mut self, checkpointing: Option<GradientCheckpointing>) {
        self.checkpointing = checkpointing;
    }

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        for (i, block) in self.model.layers.iter_mut().enumerate() {
            for (name, layer) in block.linears() {
                visit(&format!("model.layers.{i}.{name}"), layer)?;
            }
        }
        let head = self.lm_head.as_mut().filter(|_| self.overrides.adapts_head);
        head.map_or(Ok(()), |head| visit(head::PATH, head))
    }

    fn set_head_adaptable(&mut self, adaptable: bool) -> bool {
        if adaptable && self.lm_head.is_none() {
            let head = Linear::from_embedding(&self.model.embed_tokens);
            self.lm_head = Some(Linear { path: head::PATH.to_owned(), ..head });
            self.overrides.untied = true;
        } else if !adaptable && std::mem::take(&mut self.overrides.untied) {
            self.lm_head = None;
        }
        self.overrides.adapts_head = adaptable;
        true
    }

    fn overrides_mut(&mut self) -> Option<&mut Overrides> {
        Some(&mut self.overrides)
    }

    fn visit_quantizable(&mut self, visit: &mut dyn FnMut(&str, WeightMut) -> Result<()>) -> Result<()> {
        visit("model.embed_tokens", self.model.embed_tokens.weight_mut())?;
        self.visit_linears(&mut |path, layer| visit(path, layer.weight_mut()))?;
        // An adaptable head has just been visited.
        let head = self.lm_head.as_mut().filter(|_| !self.overrides.adapts_head);
        head.map_or(Ok(()), |head| visit(head::PATH, head.weight_mut()))
    }

    fn visit_weights(&mut self, visit: &mut dyn FnMut(&str, Weight) -> Result<()>) -> Result<()> {
        visit("model.embed_tokens", self.model.embed_tokens.table())?;
        self.visit_linears(&mut |path, layer| visit(path, layer.matrix()))?;
        // As above.
        let head = self.lm_head.as_ref().filter(|_| !self.overrides.adapts_head);
        head.map_or(Ok(()), |head| visit(head::PATH, head.matrix()))
    }

    fn dtype(&self) -> Dtype {
        self.model.norm.weight.dtype()
    }

    fn computes(&self, key: &str) -> bool {
        // Checkpoints of transformers before 4.32 store the RoPE table. It follows from `rope_theta`, which alone
        // counts, as in transformers.
        key.ends_with("rotary_emb.inv_freq")
    }

    fn agrees(&self, _key: &str, tensor: &Array) -> nn::Result<bool> {
        // What checkpoints may store besides parameters are the inverse periods.
        let Some(periods) = self.ropes.first().map(Rope::unscaled_periods) else { return Ok(true) };
        let stored = tensor.as_dtype(Dtype::Float32)?;
        mlx_rs::transforms::eval([&stored])?;
        let close = |(stored, period): (&f32, &f64)| {
            let frequency = 1.0 / period;
            (f64::from(*stored) - frequency).abs() <= 0.01 * frequency + 1e-7
        };
        Ok(stored.size() == periods.len() && stored.as_slice::<f32>().iter().zip(periods).all(close))
    }

    fn tied_to(&self, key: &str) -> Option<String> {
        let leaf = key.strip_prefix("lm_head.").filter(|_| self.lm_head.is_none())?;
        Some(format!("model.embed_tokens.{leaf}"))
    }

    fn untie(&mut self) -> nn::Result<()> {
        if self.lm_head.is_none() {
            let (vocab, hidden) = self.model.embed_tokens.table().shape();
            self.lm_head = Some(new_head(hidden, vocab)?);
        }
        Ok(())
    }

    fn keeps_dtype(&self, name: &str) -> bool {
        name.ends_with(".expert_bias")
    }

    fn update_config(&self, config: &mut Value) {
        set_head(config, self.lm_head.is_none());
    }

    fn map_weight(&self, name: &str, tensor: Array) -> nn::Result<NamedTensors> {
        // Stored without head, names do not start with that of the model.
        match name.split('.').next() {
            Some("embed_tokens" | "embedding_norm" | "layers" | "norm") => {
                (self.layout.map_weight)(&format!("model.{name}"), tensor)
            }
            _ => (self.layout.map_weight)(name, tensor),
        }
    }

    fn export(&self, parameters: Tensors) -> nn::Result<Tensors> {
        experts::restack((self.layout.export)(parameters)?, self.layout.mlx_name)
    }

    fn mlx_name(&self, path: &str) -> (String, Option<usize>) {
        (self.layout.mlx_name)(path)
    }
}

impl<B: Block> LanguageModel for CausalLm<B> {
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array> {
        self.read(ids, cache.map_or(Context::Whole, Context::Cached))
    }

    fn hidden_each(&self, ids: &Array, sequences: Sequences<Cache>) -> nn::Result<Array> {
        self.read(ids, Context::Each(sequences))
    }

    fn hidden_segmented(&self, ids: &Array, segments: &Segments) -> nn::Result<Array> {
        self.read(ids, Context::Segmented(segments))
    }

    fn head(&self) -> Head<'_> {
        self.lm_head.as_ref().map_or(Head::Tied(&self.model.embed_tokens), Head::Layer)
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
        if let PromptShape::Embeddings { hidden } = prompt.shape {
            let x = prompt.forward()?.as_dtype(self.dtype())?.reshape(&[1, more, hidden])?;
            self.blocks(x, Context::Cached(&mut cache))?;
        }
        for (layer, [k, v]) in cache.layers.iter_mut().zip(prompt.key_values()?) {
            layer.kv()?.update(&k.as_dtype(self.dtype())?, &v.as_dtype(self.dtype())?)?;
        }
        kernels::eval(cache.arrays())?;
        Ok(cache)
    }

    fn rotation_variant(&self, length: i32) -> u64 {
        let length = self.with_prompt(length);
        self.ropes.iter().fold(0, |variant, rope| variant << 32 | u64::from(rope.variant(length)))
    }

    fn invalidates_cache(&self, length: i32) -> bool {
        self.ropes.iter().any(|rope| rope.invalidates_cache(self.with_prompt(length)))
    }

    fn prompt_mut(&mut self) -> &mut Option<Prompt> {
        &mut self.prompt
    }

    fn prompt_shape(&self) -> PromptShape {
        PromptShape::Embeddings { hidden: self.model.norm.weight.dim(0) }
    }

    fn prefix_shape(&self) -> Option<PromptShape> {
        let attends = |block: &B| matches!(block.new_cache(0), LayerCache::Kv(_));
        let [kv_heads, head_dim] = self.keys;
        let layers = self.model.layers.len() as i32;
        self.model.layers.iter().all(attends).then_some(PromptShape::KeyValues { layers, kv_heads, head_dim })
    }

    fn block_count(&self) -> usize {
        self.model.layers.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("model.layers.{index}")
    }

    fn apply_block(&self, index: usize, x: &Array) -> nn::Result<Array> {
        let mut x = Residual::new(x.clone());
        self.model.layers[index].forward(&mut x, Context::Whole)?;
        x.into_sum()
    }

    fn scalings(&self, index: usize) -> Vec<Scaling> {
        let path = self.block_path(index);
        self.model.layers[index].scalings().into_iter().map(|scaling| scaling.prefixed(&path)).collect()
    }

    fn heads(&self, index: usize) -> Option<&Heads> {
        self.model.layers[index].heads()
    }

    fn groups(&self, index: usize) -> Option<Units> {
        let path = self.block_path(index);
        self.model.layers[index].groups().map(|groups| groups.prefixed(&path))
    }

    fn channels(&self, index: usize) -> Option<Units> {
        let path = self.block_path(index);
        self.model.layers[index].channels().map(|channels| channels.prefixed(&path))
    }

    fn final_norm(&self) -> (&'static str, f32) {
        ("model.norm", self.model.norm.rms.offset)
    }

    fn apply_final_norm(&self, x: &Array) -> nn::Result<Array> {
        self.model.norm.forward(x)
    }

    fn embedding_mut(&mut self) -> &mut Embedding {
        &mut self.model.embed_tokens
    }

    fn outline(&self) -> Option<Outline> {
        let blocks: Option<Vec<_>> = self.model.layers.iter().map(Block::outline).collect();
        // Virtual tokens are no part of it.
        let blocks = blocks.filter(|_| self.prompt.is_none())?;
        Some(Outline { embedding_scale: self.embedding_scale, softcap: self.softcap, blocks })
    }

    fn vocab_size(&self) -> i32 {
        self.model.embed_tokens.table().shape().0
    }
}
