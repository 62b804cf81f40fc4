//! A graph that is kept does for other batches what one built for them does.

use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use efficientai_toolkit::data::{Batch, Examples, Labels, Pairs, Sample, collate, pack};
use efficientai_toolkit::kernels::graphs::Graphs;
use efficientai_toolkit::kernels::group::Group;
use efficientai_toolkit::lora::Method;
use efficientai_toolkit::models::Model;
use efficientai_toolkit::params;
use efficientai_toolkit::progress::{Event, Observer};
use efficientai_toolkit::train::checkpoint::{CheckpointManager, History};
use efficientai_toolkit::train::fit::{Trainable, fit};
use efficientai_toolkit::train::gradients::{gradients, inputs};
use efficientai_toolkit::train::memory::estimate_memory;
use efficientai_toolkit::train::optimizer::lr_multipliers::LrMultipliers;
use efficientai_toolkit::train::optimizer::{Optimizer, OptimizerKind, OptimizerSettings};
use efficientai_toolkit::train::plan::Plan;
use efficientai_toolkit::train::schedule::{LrSchedule, ScheduleKind};
use efficientai_toolkit::train::task::{ForwardOptions, Task as _};
use efficientai_toolkit::train::text::data::{TextData, TrainingRows};
use efficientai_toolkit::train::text::objective::Objective;
use efficientai_toolkit::train::text::task::TextTask;
use efficientai_toolkit::{Error, Result};
use mlx_rs::Array;
use serde_json::json;

use crate::fixtures::{adapted, adapted_by, check, fixtures};

const VOCAB: usize = 60;

fn sample(length: usize, seed: usize) -> Sample {
    Sample::new((0..length).map(|i| ((i * 7 + seed * 13 + i * i * seed) % VOCAB) as u32).collect(), |i| i > 2)
}

fn is_magnitude(name: &str) -> bool {
    name.rsplit('.').next() == Some("m")
}

/// The adapters: low-rank matrices, and magnitudes of `DoRA`.
fn names(model: &Model) -> Vec<String> {
    let all = model.parameters().flatten();
    let trained = |name: &&Rc<str>| name.contains("lora_") || is_magnitude(name);
    let mut names: Vec<String> = all.keys().filter(trained).map(ToString::to_string).collect();
    assert!(names.iter().any(|name| name.contains("lora_a")));
    names.sort();
    names
}

/// Two batches of one shape for each form that a batch has.
fn batches() -> Vec<(&'static str, Objective, [Batch; 2])> {
    let plain = |seed| collate(&[&sample(12, seed), &sample(9, seed + 1)], 64, 0);
    let packed = |lengths: [usize; 2], seed| {
        let samples = lengths.map(|length| sample(length, seed));
        collate(&pack(&samples, 21).iter().collect::<Vec<_>>(), 21, 0)
    };
    let pairs = |seed| {
        let reference = vec![-3.0 - seed as f32, -4.0];
        Batch { pairs: Some(Pairs { lengths: vec![11, 8], reference }), ..plain(seed) }
    };
    let dpo = Objective::Dpo { beta: 0.1, label_smoothing: 0.1 };
    let orpo = Objective::Orpo { lambda: 0.1, train_on_prompts: true };
    vec![
        ("plain", Objective::Sft, [plain(1), plain(5)]),
        ("packed", Objective::Sft, [packed([12, 8], 1), packed([7, 13], 4)]),
        ("dpo", dpo, [pairs(1), pairs(5)]),
        ("orpo", orpo, [pairs(1), pairs(5)]),
    ]
}

#[test]
fn every_family_has_one_graph_for_all_batches_of_a_shape() {
    let mut families = 0;
    for folder in fixtures() {
        let mut model = adapted(&folder);
        let model = model.as_mut();
        if model.is_data_dependent() {
            continue;
        }
        families += 1;
        model
            .visit_linears(&mut |_, linear| {
                linear.low_rank.dropout = 0.1;
                Ok(())
            })
            .unwrap();
        let parameters = params::parameters(model, &names(model)).unwrap();
        for (form, objective, batches) in batches() {
            let (kept, none) = (Graphs::new(true).unwrap(), Graphs::default());
            for (pass, batch) in (0..).zip(&batches) {
                let task = TextTask { objective, neftune_alpha: Some(2.0), pad_id: 0 };
                let random =
                    ForwardOptions { rng_path: Some((7, [pass, 0, 0])), ..ForwardOptions::default() };
                let inputs = inputs(&task, model, batch, task.totals(batch), &random).unwrap();
                let [kept, new] = [&kept, &none]
                    .map(|graphs| gradients(&task, model, &parameters, &inputs, graphs).unwrap());
                let name = folder.display().to_string();
                check(&name, &format!("{form} loss {pass}"), &kept.0.value, &new.0.value);
                for (key, gradient) in &new.1 {
                    check(&name, &format!("{form} {key} {pass}"), &kept.1[key], gradient);
                }
            }
        }
    }
    assert!(families > 10, "{families} families");
}

/// Events of a run.
#[derive(Default)]
struct EventLog {
    steps: Vec<(u64, f64, f64)>,
    evaluated_after: Vec<(u64, usize)>,
    /// Stops the run when it hears of this step.
    stop_at: Option<u64>,
}

impl Observer for EventLog {
    fn on(&mut self, event: &Event) -> ControlFlow<()> {
        match *event {
            Event::Step { step, loss, grad_norm, .. } => {
                self.steps.push((step, loss, grad_norm));
                if self.stop_at == Some(step) {
                    return ControlFlow::Break(());
                }
            }
            Event::Evaluated { step, .. } => self.evaluated_after.push((step, self.steps.len())),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn plan(keep_graphs: bool, kind: OptimizerKind) -> Plan {
    let optimizer = Optimizer::new(&OptimizerSettings {
        kind,
        momentum: None,
        nesterov: false,
        weight_decay: None,
        beta1: 0.9,
        beta2: None,
        eps: 1e-8,
    });
    Plan {
        steps: 6,
        batch_size: 2,
        group: Group::ALONE,
        accumulation: 2,
        memory_budget: None,
        lr: 1e-2,
        lr_multipliers: LrMultipliers::by_suffix(vec![(".lora_b", 2.0)]),
        lr_schedule: LrSchedule {
            kind: ScheduleKind::Linear,
            min_ratio: 0.0,
            cycles: 1,
            power: 1.0,
            decay_ratio: 0.1,
            table: Vec::new(),
        },
        warmup_steps: 1,
        optimizer: optimizer.unwrap(),
        max_grad_norm: 0.5,
        grad_checkpoint: 0,
        keep_graphs,
        seed: 3,
        eval_every: 3,
        eval_batches: 0,
        early_stopping: None,
        keep_best: false,
        save_every: 4,
    }
}

struct Run {
    history: History,
    best: Option<u64>,
    values: Vec<Array>,
    log: EventLog,
}

/// Trains low-rank matrices of a small model.
fn train(plan: &Plan, log: EventLog, folder: &Path) -> (Result<History>, Run) {
    train_by(Method::Lora, plan, log, folder)
}

const TASK: TextTask = TextTask { objective: Objective::Sft, neftune_alpha: None, pad_id: 0 };

fn data(train: Examples, valid: Examples) -> TextData<'static> {
    let train = TrainingRows::InMemory(train);
    TextData { train, valid, vocab_size: VOCAB as i32, max_seq_length: 64, pad_id: 0 }
}

/// Trains a small model, from the checkpoint in `folder` if there is one.
fn train_by(method: Method, plan: &Plan, mut log: EventLog, folder: &Path) -> (Result<History>, Run) {
    let of_llama = fixtures().into_iter().find(|folder| folder.ends_with("llama_gqa")).unwrap();
    let mut model = adapted_by(method, &of_llama);
    let names = names(model.as_ref());
    assert_eq!(names.iter().any(|name| is_magnitude(name)), method == Method::Dora);
    let rows = |seed| (0..8).map(|i| sample(6 + i % 3, seed + i)).collect();
    let data = data(Examples::new(rows(1), Labels::All), Examples::new(rows(20), Labels::All));
    let checkpoints = CheckpointManager::new(folder.to_path_buf(), json!({}), 3);
    let resumed = checkpoints.load_latest().unwrap();
    let trainable = Trainable { names: &names, hooks: Vec::new(), resumed };
    let outcome = fit(&TASK, model.as_mut(), trainable, &data, plan, &checkpoints, &mut log);
    let history = match &outcome {
        Ok(outcome) => outcome.history.clone(),
        Err(_) => checkpoints.load_latest().unwrap().map(|state| state.history).unwrap_or_default(),
    };
    let best = outcome.as_ref().ok().and_then(|outcome| outcome.best).map(|(step, _)| step);
    let values = params::parameters(model.as_ref(), &names).unwrap().into_values().collect();
    (outcome.map(|outcome| outcome.history), Run { history, best, values, log })
}

#[test]
fn memory_of_a_kept_update_is_that_of_everything_it_makes() {
    let of_llama = fixtures().into_iter().find(|folder| folder.ends_with("llama_gqa")).unwrap();
    let mut model = adapted(&of_llama);
    let names = names(model.as_ref());
    let trained: usize =
        params::parameters(model.as_ref(), &names).unwrap().values().map(Array::nbytes).sum();
    let rows = Examples::new(vec![sample(12, 1), sample(9, 2)], Labels::All);
    let data = data(rows.clone(), rows);
    let estimate =
        estimate_memory(&TASK, model.as_mut(), &names, &plan(true, OptimizerKind::AdamW), &data).unwrap();
    // Parameters, and two moments of each.
    assert!(estimate.update >= 3 * trained as u64, "{estimate:?} of {trained}");
}

/// Fails unless both took six steps to the same curves and parameters.
fn check_same(name: &str, ahead: &Run, waiting: &Run) {
    assert_eq!(ahead.values.len(), waiting.values.len());
    for (ahead, waiting) in ahead.values.iter().zip(&waiting.values) {
        check(name, "parameter", ahead, waiting);
    }
    let numbers = |run: &Run| -> Vec<f64> {
        let validation = run.history.validation_losses.iter().map(|&(_, loss)| loss);
        run.history.train_losses.iter().copied().chain(validation).collect()
    };
    assert_eq!(waiting.history.train_losses.len(), 6);
    assert!(waiting.history.validation_losses.len() >= 3);
    assert_eq!(numbers(ahead).len(), numbers(waiting).len());
    for (ahead, waiting) in numbers(ahead).into_iter().zip(numbers(waiting)) {
        assert!((ahead - waiting).abs() < 1e-5, "{name}: {ahead} and {waiting}");
    }
}

#[test]
fn a_run_ahead_of_its_figures_is_the_same_run() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Adafactor, OptimizerKind::Muon] {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [(_, waiting), (_, ahead)] = [false, true].map(|ahead| {
            let folder = folders[usize::from(ahead)].path();
            train(&plan(ahead, kind), EventLog::default(), folder)
        });
        check_same(&format!("{kind:?}"), &ahead, &waiting);
        // Each step is reported once, and before what comes after it.
        let steps: Vec<u64> = ahead.log.steps.iter().map(|&(step, ..)| step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
        assert_eq!(ahead.log.evaluated_after, [(0, 0), (3, 3), (6, 6)]);
        assert_eq!(ahead.log.evaluated_after, waiting.log.evaluated_after);
        for (ahead, waiting) in ahead.log.steps.iter().zip(&waiting.log.steps) {
            assert!((ahead.2 - waiting.2).abs() < 1e-4 * waiting.2, "{ahead:?} and {waiting:?}");
        }
    }
}

#[test]
fn a_run_ahead_is_the_same_with_dora_with_activations_computed_again_and_with_the_best_kept() {
    for name in ["dora", "grad_checkpoint", "keep_best"] {
        let method = if name == "dora" { Method::Dora } else { Method::Lora };
        let [(_, waiting), (_, ahead)] = [false, true].map(|ahead| {
            let plan = plan(ahead, OptimizerKind::AdamW);
            let plan = match name {
                "grad_checkpoint" => Plan { grad_checkpoint: 1, ..plan },
                // So large a rate that the loss rises again.
                "keep_best" => Plan { keep_best: true, lr: 3.0, eval_every: 1, ..plan },
                _ => plan,
            };
            train_by(method, &plan, EventLog::default(), tempfile::tempdir().unwrap().path())
        });
        check_same(name, &ahead, &waiting);
        assert_eq!(ahead.best, waiting.best);
        assert_eq!(ahead.best.is_some(), name == "keep_best");
        assert_ne!(ahead.best, Some(6), "the loss must rise again");
    }
}

#[test]
fn a_run_ahead_that_was_stopped_goes_on_as_if_it_had_not_been() {
    let [whole, part] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plan = plan(true, OptimizerKind::AdamW);
    let (_, uninterrupted) = train(&plan, EventLog::default(), whole.path());
    let (_, stopped) = train(&plan, EventLog { stop_at: Some(2), ..EventLog::default() }, part.path());
    assert_eq!(stopped.history.train_losses.len(), 3);
    let (_, resumed) = train(&plan, EventLog::default(), part.path());
    let steps: Vec<u64> = resumed.log.steps.iter().map(|&(step, ..)| step).collect();
    assert_eq!(steps, [4, 5, 6]);
    check_same("resumed", &resumed, &uninterrupted);
}

#[test]
fn a_run_ahead_that_is_stopped_saves_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog { stop_at: Some(2), ..EventLog::default() };
    let (outcome, run) = train(&plan(true, OptimizerKind::AdamW), log, folder.path());
    assert!(matches!(outcome, Err(Error::Interrupted)));
    // The third step had begun when the second was told of.
    assert_eq!(run.history.train_losses.len(), 3);
    let steps: Vec<u64> = run.log.steps.iter().map(|&(step, ..)| step).collect();
    assert_eq!(steps, [1, 2, 3]);
}

#[test]
fn a_run_ahead_that_diverges_keeps_the_parameters_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { lr: 1e30, ..plan(true, OptimizerKind::AdamW) };
    let (outcome, run) = train(&plan, EventLog::default(), folder.path());
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("at step 2 of 6"), "{error}");
    let steps: Vec<u64> = run.log.steps.iter().map(|&(step, ..)| step).collect();
    assert_eq!(steps, [1]);
    let log = EventLog { stop_at: Some(1), ..EventLog::default() };
    let (_, one) = train(&Plan { keep_graphs: false, ..plan }, log, folder.path());
    for (value, after_one) in run.values.iter().zip(&one.values) {
        assert_eq!(value.as_slice::<f32>(), after_one.as_slice::<f32>());
    }
}
