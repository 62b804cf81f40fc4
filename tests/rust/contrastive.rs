//! The training loop trains what is no language model: two towers, on pairs whose loss depends on the whole batch.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::thread::Scope;

use efficientai_toolkit::kernels::group::Group;
use efficientai_toolkit::nn::network::GradientCheckpointing;
use efficientai_toolkit::nn::{self, Linear, Network};
use efficientai_toolkit::progress::{Event, Observer};
use efficientai_toolkit::train::checkpoint::CheckpointManager;
use efficientai_toolkit::train::fit::{Outcome, Trainable, fit};
use efficientai_toolkit::train::optimizer::lr_multipliers::LrMultipliers;
use efficientai_toolkit::train::plan::Plan;
use efficientai_toolkit::train::settings::Settings;
use efficientai_toolkit::train::task::batch::Batch;
use efficientai_toolkit::train::task::data::{DataLoader, DataModule};
use efficientai_toolkit::train::task::inputs::Inputs;
use efficientai_toolkit::train::task::max_tokens::MaxTokens;
use efficientai_toolkit::train::task::{ForwardOptions, Loss, Task, Totals};
use efficientai_toolkit::{Result, params};
use mlx_macros::ModuleParameters;
use mlx_rs::{Array, Dtype};
use serde_json::json;

const PAIRS: usize = 8;
const FEATURES: usize = 5;
const EMBEDDING: usize = 3;

/// One linear layer for images and one for texts.
#[derive(Debug, ModuleParameters)]
struct Towers {
    #[param]
    image: Linear,
    #[param]
    text: Linear,
}

impl Network for Towers {
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        visit("image", &mut self.image)?;
        visit("text", &mut self.text)
    }

    fn set_gradient_checkpointing(&mut self, _: Option<GradientCheckpointing>) {}

    fn dtype(&self) -> Dtype {
        Dtype::Float32
    }
}

/// Numbers that look random and are the same everywhere.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + i * i * 11) % 83) as f32 / 41.0 - 1.0).collect()
}

fn towers() -> Towers {
    let tower = |seed| {
        let mut layer = Linear::new(FEATURES as i32, EMBEDDING as i32, false).unwrap();
        let weight = numbers(EMBEDDING * FEATURES, seed);
        *layer.weight = Array::from_slice(&weight, &[EMBEDDING as i32, FEATURES as i32]);
        layer
    };
    Towers { image: tower(1), text: tower(2) }
}

/// Rows of features, image and text of the same pair at the same place.
struct Pairs {
    images: Vec<f32>,
    texts: Vec<f32>,
}

impl Batch for Pairs {
    fn rows(&self) -> usize {
        self.images.len() / FEATURES
    }

    fn row_length(&self) -> usize {
        1
    }

    fn tokens(&self) -> usize {
        self.rows()
    }

    fn is_divisible(&self) -> bool {
        false
    }
}

/// Cross-entropy of finding the text of each image in the batch ([InfoNCE](https://arxiv.org/abs/1807.03748)).
struct InfoNce;

impl Task for InfoNce {
    type Model = Towers;
    type Batch = Pairs;

    fn totals(&self, batch: &Pairs) -> Totals {
        Totals([batch.rows() as f64, 0.0])
    }

    fn inputs(&self, _: &Towers, batch: &Pairs, totals: Totals, options: &ForwardOptions) -> Result<Inputs> {
        let shape = [batch.rows() as i32, FEATURES as i32];
        let mut inputs = Inputs::new(options.loss_scale);
        inputs.insert("images", Array::from_slice(&batch.images, &shape));
        inputs.insert("texts", Array::from_slice(&batch.texts, &shape));
        inputs.insert("pairs", Array::from_f32(totals.0[0] as f32));
        Ok(inputs)
    }

    fn loss(&self, model: &mut Towers, inputs: &Inputs, _: bool) -> nn::Result<Loss> {
        let images = model.image.forward(inputs.get("images")?)?;
        let texts = model.text.forward(inputs.get("texts")?)?;
        let scores = images.matmul(texts.t())?;
        let normalizers = scores.logsumexp_axis(1, None)?.sum(None)?;
        let own = images.multiply(texts)?.sum(None)?;
        Ok(Loss { value: normalizers.subtract(own)?.divide(inputs.get("pairs")?)?, rewards: None })
    }
}

struct Data;

fn pairs(indices: Range<usize>) -> Pairs {
    let all = |seed| numbers(PAIRS * FEATURES, seed);
    let rows = indices.start * FEATURES..indices.end * FEATURES;
    Pairs { images: all(3)[rows.clone()].to_vec(), texts: all(4)[rows].to_vec() }
}

impl DataModule for Data {
    type Batch = Pairs;

    fn len(&self) -> usize {
        PAIRS
    }

    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        _: u64,
        _: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = Pairs> + 'env> {
        Box::new(Loader { batch_size: plan.batch_size })
    }

    fn has_validation(&self) -> bool {
        true
    }

    fn validation<'a>(&'a self, _: &'a Plan, _: Group, _: MaxTokens) -> Box<dyn Iterator<Item = Pairs> + 'a> {
        Box::new(std::iter::once(pairs(0..PAIRS)))
    }

    fn longest_row(&self) -> usize {
        1
    }

    fn probe_batch(&self, _: usize) -> Pairs {
        pairs(0..1)
    }
}

/// The pairs in order, again and again.
struct Loader {
    batch_size: usize,
}

impl DataLoader for Loader {
    type Batch = Pairs;

    fn get(&mut self, numbers: Range<u64>, _: MaxTokens) -> Result<Vec<Vec<Pairs>>> {
        let batch = |number: u64| {
            let first = number as usize * self.batch_size % PAIRS;
            vec![pairs(first..first + self.batch_size)]
        };
        Ok(numbers.map(batch).collect())
    }

    fn epoch(&self, number: u64) -> f64 {
        number as f64 * self.batch_size as f64 / PAIRS as f64
    }
}

/// Stops a run after a step.
struct StopAt(Option<u64>);

impl Observer for StopAt {
    fn on(&mut self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Step { step, .. } if Some(*step) == self.0 => ControlFlow::Break(()),
            Event::Evaluated { perplexity, .. } => {
                assert_eq!(*perplexity, None, "this loss is no likelihood of the data");
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Trains from the checkpoint in `folder` if there is one; the outcome and both weights.
fn train(folder: &Path, stop_at: Option<u64>) -> (Result<Outcome>, Vec<Vec<f32>>) {
    let settings =
        Settings { iters: Some(40), lr: 5e-2, keep_best: false, eval_every: 0, ..Settings::default() };
    let plan = settings.plan(PAIRS, LrMultipliers::default(), false, Group::ALONE).unwrap();
    let mut model = towers();
    let names = ["image.weight", "text.weight"].map(str::to_owned);
    let checkpoints = CheckpointManager::new(folder.to_path_buf(), json!({}), 1);
    let resumed = checkpoints.load_latest().unwrap();
    let trainable = Trainable { names: &names, hooks: Vec::new(), resumed };
    let outcome = fit(&InfoNce, &mut model, trainable, &Data, &plan, &checkpoints, &mut StopAt(stop_at));
    let weights = params::parameters(&model, &names).unwrap();
    (outcome, weights.values().map(|weight| weight.as_slice::<f32>().to_vec()).collect())
}

/// The loss of the untrained towers on all pairs, in f64.
fn expected_loss() -> f64 {
    let embed = |features: &[f32], seed| -> Vec<f64> {
        let weight = numbers(EMBEDDING * FEATURES, seed);
        let row = |row: &[f32]| {
            let products = row.iter().zip(features).map(|(w, x)| f64::from(*w) * f64::from(*x));
            products.sum::<f64>()
        };
        weight.chunks(FEATURES).map(row).collect()
    };
    let Pairs { images, texts } = pairs(0..PAIRS);
    let images: Vec<_> = images.chunks(FEATURES).map(|row| embed(row, 1)).collect();
    let texts: Vec<_> = texts.chunks(FEATURES).map(|row| embed(row, 2)).collect();
    let score = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let losses = images.iter().zip(&texts).map(|(image, own)| {
        texts.iter().map(|text| score(image, text).exp()).sum::<f64>().ln() - score(image, own)
    });
    losses.sum::<f64>() / PAIRS as f64
}

#[test]
fn a_contrastive_task_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let history = train(folder.path(), None).0.unwrap().history;
    let [(0, before), (40, after)] = history.validation_losses[..] else {
        panic!("{:?}", history.validation_losses)
    };
    assert!((before - expected_loss()).abs() < 1e-5, "{before} and {}", expected_loss());
    assert!(after < before / 2.0, "{before} → {after}");
    assert_eq!(history.trained_tokens, 40 * 4);
}

#[test]
fn a_contrastive_run_resumes_exactly() {
    let [whole, part] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_, uninterrupted) = train(whole.path(), None);
    let (stopped, at_17) = train(part.path(), Some(17));
    assert!(stopped.is_err());
    assert_ne!(at_17, uninterrupted);
    let (outcome, resumed) = train(part.path(), None);
    assert_eq!(outcome.unwrap().history.train_losses.len(), 40);
    assert_eq!(resumed, uninterrupted);
}
