//! Mixture of experts ([Shazeer et al.](https://arxiv.org/abs/1701.06538)): every token is processed by a few
//! of many feed-forward layers.
//!
//! Routing is decided on the host, so that each expert reads only its own rows, with the kernels of any other
//! linear layer. This costs one evaluation of the graph per layer.

use mlx_macros::ModuleParameters;
use mlx_rs::error::Exception;
use mlx_rs::module::Param;
use mlx_rs::ops::{concatenate, sigmoid};
use mlx_rs::{Array, Dtype};

use super::layer::{FeedForward, Linears, prefixed};
use super::row_adapters::RowAdapters;
use super::scaling::Flow;
use super::{Linear, Result};
use crate::kernels::embedding::embedding;
use crate::kernels::eval;
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::softmax::softmax;

/// How router outputs become expert weights.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// Score function.
    pub scoring: Scoring,
    /// Whether the weights of a token are normalized to sum to one.
    pub normalized: bool,
    /// Scaling factor of the weights.
    pub scale: f32,
}

/// Score function of router outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each expert.
    Sigmoid,
}

/// Router and experts.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Moe<F: FeedForward> {
    /// Router, `hidden` → number of experts.
    #[param]
    pub gate: Linear,
    /// Experts.
    #[param]
    pub experts: Vec<F>,
    /// Added to the scores for the selection of experts, but not to their weights: `[experts]`.
    #[param]
    pub expert_bias: Param<Option<Array>>,
    /// Routing settings.
    pub routing: Routing,
}

impl<F: FeedForward> Moe<F> {
    /// Creates a zero-initialized router for `experts` experts, each created by `expert`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, experts: i32, routing: Routing, expert: impl Fn() -> Result<F>) -> Result<Self> {
        Ok(Self {
            gate: Linear::new(hidden, experts, false)?,
            experts: (0..experts).map(|_| expert()).collect::<Result<_>>()?,
            expert_bias: Param::new(None),
            routing,
        })
    }
}

impl<F: FeedForward> FeedForward for Moe<F> {
    const DATA_DEPENDENT: bool = true;

    fn forward(&self, x: &Array) -> Result<Array> {
        route(x, &self.gate, (*self.expert_bias).as_ref(), self.routing, &self.experts)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = vec![("gate".to_owned(), &mut self.gate)];
        layers.extend(expert_linears(&mut self.experts));
        layers
    }

    fn flow(&self) -> Flow {
        expert_flow("gate", &self.experts)
    }
}

/// Returns the linear layers of all experts.
pub fn expert_linears<F: FeedForward>(experts: &mut [F]) -> Linears<'_> {
    let layers = |(i, expert)| prefixed(&format!("experts.{i}"), F::linears(expert));
    experts.iter_mut().enumerate().flat_map(layers).collect()
}

/// How channels flow through `experts` with a router called `router`.
#[must_use]
pub fn expert_flow<F: FeedForward>(router: &str, experts: &[F]) -> Flow {
    let mut flow = Flow { readers: vec![router.to_owned()], scalings: Vec::new() };
    for (i, expert) in experts.iter().enumerate() {
        let Flow { readers, scalings } = expert.flow().prefixed(&format!("experts.{i}"));
        flow.readers.extend(readers);
        flow.scalings.extend(scalings);
    }
    flow
}

/// `x`: `[..., hidden]` → weighted sum of the outputs of the experts selected by the router `gate`, same
/// shape. `bias` is added to the scores for the selection only.
///
/// # Errors
/// Incompatible shapes.
pub fn route<F: FeedForward>(
    x: &Array,
    gate: &Linear,
    bias: Option<&Array>,
    routing: Routing,
    experts: &[F],
) -> Result<Array> {
    let hidden = x.dim(-1);
    let rows = x.reshape(&[-1, hidden])?;
    let scores = gate.forward(&rows)?.as_dtype(Dtype::Float32)?;
    let scores = match routing.scoring {
        Scoring::Softmax => softmax(&scores)?,
        Scoring::Sigmoid => sigmoid(&scores)?,
    };
    let ranks = match bias {
        Some(bias) => scores.add(bias.as_dtype(Dtype::Float32)?)?,
        None => scores.clone(),
    };
    eval([&scores, &ranks]).map_err(|error| Exception::custom(error.to_string()))?;
    let ranks = ranks.to_vec_exact::<f32>().map_err(|error| Exception::custom(error.to_string()))?;
    let chosen = top_k_indices(&ranks, experts.len(), routing.top_k);
    let (tokens, top_k) = (rows.dim(0), routing.top_k as i32);
    let mut weights = scores.take_along_axis(Array::from_slice(&chosen, &[tokens, top_k]), -1)?;
    if routing.normalized {
        let total = weights.sum_axis(-1, true)?;
        weights = match routing.scoring {
            Scoring::Softmax => weights.divide(total)?,
            // All scores of a token may be close to zero.
            Scoring::Sigmoid => weights.divide(total.add(Array::from_f32(1e-6))?)?,
        };
    }
    let weights = weights.multiply(Array::from_f32(routing.scale))?.as_dtype(x.dtype())?;
    let dispatch = Dispatch::new(&chosen, experts.len(), routing.top_k);
    let sorted = embedding(&rows, &Array::from_slice(&dispatch.rows, &[tokens * top_k]))?;
    let parts = sorted.split_at_indices(&dispatch.ends, 0)?;
    let adapters = RowAdapters::current();
    let mut rows = &dispatch.rows[..];
    let apply = |(&expert, part): (&usize, &Array)| {
        let own = rows.split_off(..part.dim(0).unsigned_abs() as usize).unwrap_or_default();
        match &adapters {
            None => experts[expert].forward(part),
            Some(adapters) => adapters.select(own).scope(|| experts[expert].forward(part)),
        }
    };
    let done: Result<Vec<Array>> = dispatch.experts.iter().zip(&parts).map(apply).collect();
    let back = Array::from_slice(&dispatch.places, &[tokens, top_k]);
    let outputs = embedding(&concatenate(&done?, 0)?, &back)?;
    let weights = weights.expand_dims(1)?;
    matmul(&weights, &outputs, Transpose::NONE)?.reshape(x.shape())
}

/// Indices of the `top_k` largest of each row of `experts` scores, in descending order; of equal ones the
/// first.
fn top_k_indices(ranks: &[f32], experts: usize, top_k: usize) -> Vec<u32> {
    let row = |ranks: &[f32]| {
        let mut order: Vec<u32> = (0..experts as u32).collect();
        order.sort_by(|&a, &b| ranks[b as usize].total_cmp(&ranks[a as usize]));
        order.truncate(top_k);
        order
    };
    ranks.chunks_exact(experts).flat_map(row).collect()
}

/// Assignment of rows to experts, sorted by expert.
struct Dispatch {
    /// Experts with at least one row, in order.
    experts: Vec<usize>,
    /// End of the rows of each of them but the last.
    ends: Vec<i32>,
    /// Row of `x` at each sorted position.
    rows: Vec<u32>,
    /// Sorted position of each choice.
    places: Vec<u32>,
}

impl Dispatch {
    /// `chosen`: the expert of each token and choice.
    fn new(chosen: &[u32], experts: usize, top_k: usize) -> Self {
        let mut order: Vec<usize> = (0..chosen.len()).collect();
        order.sort_by_key(|&choice| chosen[choice]);
        let mut places = vec![0; chosen.len()];
        for (place, &choice) in order.iter().enumerate() {
            places[choice] = place as u32;
        }
        let mut counts = vec![0; experts];
        for &expert in chosen {
            counts[expert as usize] += 1;
        }
        let busy: Vec<usize> = (0..experts).filter(|&expert| counts[expert] > 0).collect();
        let mut ends: Vec<i32> = busy
            .iter()
            .scan(0, |end, &expert| {
                *end += counts[expert];
                Some(*end)
            })
            .collect();
        ends.pop();
        let rows = order.iter().map(|&choice| (choice / top_k) as u32).collect();
        Self { experts: busy, ends, rows, places }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first() {
        assert_eq!(top_k_indices(&[0.1, 0.5, 0.4, 0.3, 0.3, 0.2], 3, 2), [1, 2, 0, 1]);
    }

    #[test]
    fn every_choice_finds_its_place() {
        let chosen = [3, 1, 1, 0, 3, 0];
        let dispatch = Dispatch::new(&chosen, 5, 2);
        assert_eq!(dispatch.experts, [0, 1, 3]);
        assert_eq!(dispatch.ends, [2, 4]);
        for (choice, &place) in dispatch.places.iter().enumerate() {
            assert_eq!(dispatch.rows[place as usize], choice as u32 / 2);
            let part = dispatch.ends.iter().filter(|&&end| end <= place as i32).count();
            assert_eq!(dispatch.experts[part], chosen[choice] as usize);
        }
    }
}
