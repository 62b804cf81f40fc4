//! Three steps of every optimizer beside those of PyTorch 2.15 (`torch.optim`), transformers 5.24 (Adafactor) and
//! MLX 0.32.2 (Lion), with rate 0.1, betas 0.9 and 0.99, momentum 0.9 and decay 0.1, from
//! `p[i] = ((7i mod 11) - 5) / 4 + 0.1` along `p² - p/2`.

use mlx_rs::Array;

use super::*;

fn settings(kind: OptimizerKind) -> OptimizerSettings {
    OptimizerSettings {
        kind,
        momentum: None,
        nesterov: false,
        weight_decay: Some(0.1),
        beta1: 0.9,
        beta2: Some(0.99),
        eps: 1e-8,
    }
}

fn start(name: &str, shape: &[i32]) -> Tensors {
    let count: i32 = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((7 * i % 11) - 5) as f32 / 4.0 + 0.1).collect();
    [(name.to_owned(), Array::from_slice(&values, shape))].into()
}

/// Three steps from `start`; gradients come doubled and are halved by the scale.
fn three_steps(settings: &OptimizerSettings, mut parameters: Tensors) -> (Tensors, OptimizerState) {
    let optimizer = Optimizer::new(settings).unwrap();
    let mut state = OptimizerState::default();
    let mut held = Tensors::new();
    for _ in 0..3 {
        let gradient = |p: &Array| p.square().unwrap().multiply(Array::from_f32(2.0)).unwrap().subtract(p);
        let grads = parameters.iter().map(|(name, p)| (name.clone(), gradient(p).unwrap())).collect();
        let options = StepOptions {
            lr: 0.1,
            lr_multipliers: &LrMultipliers::default(),
            grad_scale: Array::from_f32(0.5),
            is_finite: None,
            graphs: &Graphs::default(),
        };
        optimizer
            .step(&mut parameters, grads, &mut state, &options, |values| {
                held.extend(values.clone());
                Ok(())
            })
            .unwrap();
    }
    assert!(optimizer.matches_state(&state, &parameters), "{:?}", state.tensors);
    assert_eq!(state.updates, 3);
    for (name, value) in &parameters {
        assert_eq!(held[name].as_slice::<f32>(), value.as_slice::<f32>());
    }
    (parameters, state)
}

fn assert_result(settings: &OptimizerSettings, shape: &[i32], expected: &[f32], tolerance: f32) {
    let (parameters, _) = three_steps(settings, start("p", shape));
    for (p, expected) in parameters["p"].as_slice::<f32>().iter().zip(expected) {
        assert!((p - expected).abs() < tolerance, "{:?} {shape:?}: {p}, expected {expected}", settings.kind);
    }
}

#[test]
fn adamw_is_that_of_torch() {
    let expected = [-1.413_232_7, 0.407_918_84, -0.683_834, 1.017_472];
    assert_result(&settings(OptimizerKind::AdamW), &[4], &expected, 1e-6);
}

#[test]
fn adam_is_that_of_torch() {
    let expected = [-1.450_316_7, 0.337_300_27, -0.698_307_3, 1.053_361_5];
    assert_result(&settings(OptimizerKind::Adam), &[4], &expected, 1e-6);
}

#[test]
fn sgd_is_that_of_torch() {
    let with = |momentum: f64, nesterov: bool| OptimizerSettings {
        momentum: Some(momentum),
        nesterov,
        ..settings(OptimizerKind::Sgd)
    };
    let plain = [-1.862_792_4, 0.566_736_8, -0.508_557_14, 1.040_463_6];
    assert_result(&with(0.0, false), &[4], &plain, 1e-6);
    let momentum = [-2.433_172_2, 0.537_070_4, -0.599_555_55, 0.750_735_64];
    assert_result(&with(0.9, false), &[4], &momentum, 1e-6);
    let nesterov = [-3.582_101_6, 0.515_598_24, -0.720_288_9, 0.623_523_1];
    assert_result(&with(0.9, true), &[4], &nesterov, 2e-6);
}

#[test]
fn adafactor_is_that_of_transformers() {
    let vector = [-1.427_818_9, 0.497_248_92, -0.718_622_3, 1.043_899_7];
    assert_result(&settings(OptimizerKind::Adafactor), &[4], &vector, 1e-6);
    let matrix = [-1.439_325_6, 0.496_988_8, -0.532_504_44, 1.098_043_6, 0.473_340_42, -1.157_702_6];
    assert_result(&settings(OptimizerKind::Adafactor), &[2, 3], &matrix, 1e-6);
    let (_, state) = three_steps(&settings(OptimizerKind::Adafactor), start("p", &[2, 3]));
    let shapes: Vec<_> = state.tensors.iter().map(|(name, x)| (name.as_str(), x.shape())).collect();
    assert_eq!(shapes, [("columns.p", &[3][..]), ("rows.p", &[2])]);
}

#[test]
fn lion_is_that_of_mlx() {
    let expected = [-1.412_854, 0.485_169_44, -0.685_129_64, 1.012_893_7];
    assert_result(&settings(OptimizerKind::Lion), &[4], &expected, 1e-6);
}

#[test]
fn muon_is_that_of_torch_and_mlx() {
    let muon = OptimizerSettings { momentum: Some(0.9), ..settings(OptimizerKind::Muon) };
    // PyTorch orthogonalizes in bfloat16.
    let wide = [
        -1.188_093_1,
        0.582_269_7,
        -0.399_801_05,
        1.268_378_9,
        0.351_956_87,
        -0.732_667_9,
        0.987_385_45,
        0.105_496_6,
    ];
    assert_result(&muon, &[2, 4], &wide, 4e-3);
    let tall = [
        -1.228_265,
        0.580_102_7,
        -0.408_248_5,
        1.241_226_4,
        0.343_188_17,
        -0.678_357_6,
        1.030_850_9,
        0.100_018_69,
    ];
    assert_result(&muon, &[4, 2], &tall, 4e-3);
    // MLX in float32, but with another factor, put into its rate, and another decay, left out.
    let undecayed = OptimizerSettings { weight_decay: Some(0.0), ..muon };
    let wide = [
        -1.221_916_6,
        0.600_069_6,
        -0.411_588_88,
        1.308_272,
        0.362_408_88,
        -0.752_726_26,
        1.019_092,
        0.108_570_91,
    ];
    assert_result(&undecayed, &[2, 4], &wide, 2e-6);
    let tall = [
        -1.264_856_8,
        0.597_692_85,
        -0.420_620_2,
        1.280_354_5,
        0.353_598_15,
        -0.698_235_2,
        1.062_336_6,
        0.102_957_71,
    ];
    assert_result(&undecayed, &[4, 2], &tall, 2e-6);
}

#[test]
fn muon_leaves_vectors_embeddings_and_the_head_to_adamw() {
    let names = ["norm.weight", "model.embed_tokens.weight", "lm_head.weight"];
    let shapes = [&[4][..], &[2, 2], &[2, 2]];
    let parameters = || names.iter().zip(shapes).flat_map(|(name, shape)| start(name, shape)).collect();
    let (expected, _) = three_steps(&settings(OptimizerKind::AdamW), parameters());
    let (result, _) = three_steps(&settings(OptimizerKind::Muon), parameters());
    for name in names {
        assert_eq!(result[name].as_slice::<f32>(), expected[name].as_slice::<f32>());
    }
    let (stack, state) = three_steps(&settings(OptimizerKind::Muon), start("experts", &[3, 2, 4]));
    assert_eq!(state.tensors.keys().collect::<Vec<_>>(), ["momentum.experts"]);
    let (first, _) = three_steps(&settings(OptimizerKind::Muon), start("experts", &[2, 4]));
    for (a, b) in stack["experts"].as_slice::<f32>().iter().zip(first["experts"].as_slice::<f32>()) {
        assert!((a - b).abs() < 1e-6, "a stack is a matrix at a time");
    }
}

#[test]
fn settings_of_others_are_refused_by_name() {
    for (wrong, part) in [
        (
            OptimizerSettings { momentum: Some(0.9), ..settings(OptimizerKind::AdamW) },
            "momentum is for optimizer \"sgd\"",
        ),
        (
            OptimizerSettings { momentum: Some(1.0), ..settings(OptimizerKind::Sgd) },
            "momentum is 1, expected 0 to below 1",
        ),
        (
            OptimizerSettings { nesterov: true, ..settings(OptimizerKind::Muon) },
            "nesterov is for optimizer \"sgd\"",
        ),
        (
            OptimizerSettings { nesterov: true, momentum: Some(0.0), ..settings(OptimizerKind::Sgd) },
            "momentum above 0",
        ),
    ] {
        let message = Optimizer::new(&wrong).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn memory_of_another_optimizer_is_not_taken() {
    let (parameters, state) = three_steps(&settings(OptimizerKind::Lion), start("p", &[2, 2]));
    assert!(!Optimizer::new(&settings(OptimizerKind::AdamW)).unwrap().matches_state(&state, &parameters));
    assert!(
        !Optimizer::new(&settings(OptimizerKind::Lion)).unwrap().matches_state(&state, &start("p", &[4]))
    );
}

#[test]
fn groups_hold_every_name_once_and_few_bytes() {
    let sizes = [3, CHUNK_BYTES as i32 / 12, 1, 2, CHUNK_BYTES as i32 / 24, CHUNK_BYTES as i32 / 24];
    let tensors: Tensors = sizes
        .iter()
        .enumerate()
        .map(|(i, &size)| (format!("p{i}"), Array::zeros::<f32>(&[size]).unwrap()))
        .collect();
    let chunks = Optimizer::new(&settings(OptimizerKind::AdamW)).unwrap().chunks(&tensors);
    assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 3, 1]);
    assert!(chunks.concat().iter().eq(tensors.keys()));
}
