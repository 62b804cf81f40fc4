use serde_json::Value;

use super::*;

fn array(value: &Value) -> Array {
    let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
    Array::from_slice(&rows.concat(), &[rows.len() as i32, rows[0].len() as i32])
}

/// PEFT's matrices under our names and in our orientation.
fn tensors(value: &Value) -> Tensors {
    let mut tensors = Tensors::new();
    for (path, layer) in value.as_object().unwrap() {
        tensors.insert(format!("{path}{A}"), array(&layer["A"]).t().contiguous().unwrap());
        tensors.insert(format!("{path}{B}"), array(&layer["B"]).t().contiguous().unwrap());
        tensors.insert(format!("{path}{E}"), array(&layer["E"]).reshape(&[-1]).unwrap());
    }
    kernels::eval(tensors.values()).unwrap();
    tensors
}

fn numbers(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn scores_budgets_and_masks_are_those_of_peft() {
    let text = include_str!("../../../tests/parity/fixtures/methods/adalora/allocator.json");
    let fixture: Value = serde_json::from_str(text).unwrap();
    let config: TrainingConfig = serde_json::from_value(fixture["config"].clone()).unwrap();
    let steps = fixture["steps"].as_array().unwrap();
    let first = tensors(&steps[0]["parameters"]);
    let names: Vec<String> = first.keys().cloned().collect();
    let mut allocator = RankAllocator::new(&config, &names, fixture["total_step"].as_u64().unwrap()).unwrap();
    for (i, step) in steps.iter().enumerate() {
        let number = i as u64 + 1;
        let mut parameters = tensors(&step["parameters"]);
        let (budget, _) = allocator.budget.at_step(number);
        assert_eq!(budget, step["budget"].as_u64().unwrap(), "step {number}");
        allocator.after_step(number, &tensors(&step["grads"]), 1.0, &mut parameters).unwrap();
        for (path, expected) in step["scores"].as_object().unwrap() {
            let scores = allocator.rank_scores(path).unwrap();
            for (score, expected) in scores.iter().zip(numbers(expected)) {
                assert!(
                    (score - expected).abs() <= 1e-5 * expected.abs(),
                    "step {number}, {path}: {score} {expected}"
                );
            }
        }
        for (path, expected) in step["masks"].as_object().unwrap() {
            let mask = allocator.state[&format!("{MASK}{path}{E}")].as_slice::<f32>().to_vec();
            assert_eq!(mask, numbers(expected), "step {number}, {path}");
            let e = parameters[&format!("{path}{E}")].as_slice::<f32>().to_vec();
            assert!(e.iter().zip(mask).all(|(e, mask)| (*e == 0.0) == (mask == 0.0)));
        }
    }
    let masks = allocator.state.iter().filter(|(name, _)| name.starts_with(MASK));
    let ranks: f32 = masks.flat_map(|(_, mask)| mask.as_slice::<f32>().to_vec()).sum();
    assert_eq!(ranks as u64, allocator.budget.target);
}

#[test]
fn the_penalty_pulls_towards_orthogonality() {
    // ‖AᵀA - I‖ of A = [2, 0; 0, 1]: AᵀA - I = [3, 0; 0, 0], gradient 2·A·[3, 0; 0, 0] / 3 = [4, 0; 0, 0].
    let config = TrainingConfig { adalora_orth_reg_weight: 1.0, ..TrainingConfig::default() };
    let allocator = RankAllocator::new(&config, &["x.lora_e".into()], 10).unwrap();
    let a = Array::from_slice(&[2.0_f32, 0.0, 0.0, 1.0], &[2, 2]);
    let eye = Array::eye::<f32>(2, None, None).unwrap();
    let parameters: Tensors = [("x.lora_a".to_owned(), a), ("x.lora_b".to_owned(), eye)].into();
    let zero = Array::zeros::<f32>(&[2, 2]).unwrap();
    let mut grads: Tensors = [("x.lora_a".to_owned(), zero.clone()), ("x.lora_b".to_owned(), zero)].into();
    allocator.on_gradients(&parameters, &mut grads, 1.0).unwrap();
    assert_eq!(grads["x.lora_a"].as_slice::<f32>(), [2.0, 0.0, 0.0, 0.0]);
    assert_eq!(grads["x.lora_b"].as_slice::<f32>(), [0.0; 4]);
}

#[test]
fn phases_that_leave_no_room_and_foreign_states_are_refused() {
    let config = TrainingConfig { adalora_tinit: 3, adalora_tfinal: 4, ..TrainingConfig::default() };
    let names = ["x.lora_e".to_owned()];
    assert!(RankAllocator::new(&config, &names, 8).is_ok());
    let message = RankAllocator::new(&config, &names, 7).unwrap_err().to_string();
    assert!(message.contains("adalora_tinit (3)") && message.contains("no step of 7"), "{message}");
    let mut allocator = RankAllocator::new(&config, &names, 8).unwrap();
    let state: Tensors = [("mean.y.lora_e".to_owned(), Array::from_f32(0.0))].into();
    assert!(allocator.load_state(&state, &Tensors::new()).unwrap_err().to_string().contains("mean.y.lora_e"));
}
