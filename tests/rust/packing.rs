//! A packed row is its samples one by one, in the logits and gradients of every family.

use efficientai_toolkit::data::{Batch, Sample, collate, pack};
use efficientai_toolkit::kernels::graphs::Graphs;
use efficientai_toolkit::models::Model;
use efficientai_toolkit::nn::Segments;
use efficientai_toolkit::nn::network::GradientCheckpointing;
use efficientai_toolkit::params;
use efficientai_toolkit::train::gradients::{gradients, inputs};
use efficientai_toolkit::train::task::{ForwardOptions, Loss, Task as _};
use efficientai_toolkit::train::text::objective::Objective;
use efficientai_toolkit::train::text::task::TextTask;
use mlx_rs::module::ModuleParameters as _;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::fixtures::{adapted, check, fixtures};

/// The longest beyond the windows of the fixtures; all on one side of where `LongRoPE` turns otherwise.
const LENGTHS: [usize; 4] = [17, 9, 12, 8];

fn samples(vocab: i32) -> Vec<Sample> {
    let ids = |length: usize| (0..length).map(|i| ((i * 7 + length * 3) as u32) % vocab as u32).collect();
    LENGTHS.iter().map(|&length| Sample::new(ids(length), |i| i >= length / 3)).collect()
}

#[test]
fn logits_are_those_of_each_sample_alone() {
    for folder in fixtures() {
        let model = adapted(&folder);
        let samples = samples(model.vocab_size());
        let rows = pack(&samples, 26);
        let batch = collate(&rows.iter().collect::<Vec<_>>(), 26, 0);
        let shape = [batch.rows as i32, batch.time as i32];
        assert_eq!(shape, [2, 25]);
        let segments = Segments::new(batch.starts.as_ref().unwrap(), shape[0], shape[1]).unwrap();
        let ids = Array::from_slice(&batch.ids, &shape);
        let packed = model.logits(&model.hidden_segmented(&ids, &segments).unwrap()).unwrap();
        // Best fit decreasing puts the longest with 9, and 12 with 8.
        for (row, begin, sample) in [(0, 0, 0), (0, 17, 1), (1, 0, 2), (1, 12, 3)] {
            let ids: Vec<i32> = samples[sample].ids.iter().map(|&id| id as i32).collect();
            let len = ids.len() as i32 - 1;
            let alone = model.forward(&Array::from_slice(&ids[..len as usize], &[1, len]), None).unwrap();
            let found = packed.try_index((row..row + 1, begin..begin + len)).unwrap();
            check(&folder.display().to_string(), "logits", &found, &alone);
        }
    }
}

#[test]
fn gradients_are_the_sum_of_those_of_each_sample() {
    for folder in fixtures() {
        let mut model = adapted(&folder);
        let model = model.as_mut();
        let samples = samples(model.vocab_size());
        let all = model.parameters().flatten();
        let trained = all.iter().filter(|(_, x)| x.dtype() == Dtype::Float32);
        let mut names: Vec<String> = trained.map(|(name, _)| name.to_string()).collect();
        drop(all);
        names.sort();
        let parameters = params::parameters(model, &names).unwrap();
        let rows = pack(&samples, 26);
        let batch = collate(&rows.iter().collect::<Vec<_>>(), 26, 0);
        let task = TextTask { objective: Objective::Sft, neftune_alpha: None, pad_id: 0 };
        let totals = task.totals(&batch);
        let gradients = |model: &mut Model, batch: &Batch| {
            let inputs = inputs(&task, model, batch, totals, &ForwardOptions::default()).unwrap();
            gradients(&task, model, &parameters, &inputs, &Graphs::default()).unwrap()
        };
        let (Loss { value: loss, .. }, packed) = gradients(model, &batch);
        let (mut alone, mut losses) = (None, Vec::new());
        for sample in &samples {
            let batch = collate(&[sample], 26, 0);
            let (loss, grads) = gradients(model, &batch);
            losses.push(loss.value);
            alone = Some(params::accumulate(alone, grads).unwrap());
        }
        let name = folder.display().to_string();
        let sum = losses.iter().skip(1).fold(losses[0].clone(), |sum, loss| sum.add(loss).unwrap());
        check(&name, "loss", &loss, &sum);
        model.set_gradient_checkpointing(Some(GradientCheckpointing {
            every: 1,
            trained: names.iter().cloned().collect(),
        }));
        let (_, recomputed) = gradients(model, &batch);
        for (key, gradient) in alone.unwrap() {
            check(&name, &key, &packed[&key], &gradient);
            check(&name, &format!("{key}, recomputed"), &recomputed[&key], &packed[&key]);
        }
    }
}
