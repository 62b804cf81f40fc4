use std::ops::Range;

use half::{bf16, f16};
use mlx_rs::random;
use mlx_rs::transforms::value_and_grad_with_argnums;

use super::*;
use crate::eval;
use crate::runtime::element::Element;

/// Deterministic numbers between -1 and 1.
fn numbers<T: Element>(len: usize, seed: u32) -> Vec<T> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        T::from_f32(state as f32 / u32::MAX as f32 * 2.0 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

fn sizes(batch: usize, time: usize, [heads, kv_heads, head_dim]: [usize; 3], keys: usize) -> Geometry {
    let scale = (head_dim as f32).sqrt().recip();
    Geometry {
        batch,
        time,
        heads,
        kv_heads,
        head_dim,
        capacity: keys + 3,
        keys,
        scale,
        softcap: None,
        is_causal: true,
        window: usize::MAX,
    }
}

/// Result and gradients in f64, from the definition.
struct Exact {
    out: Vec<f64>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

fn exact<T: Element>(g: &Geometry, inputs: &Inputs<T>, grad: &[T]) -> Exact {
    let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
    let (q, k, v, grad, d) = (wide(inputs.q), wide(inputs.k), wide(inputs.v), wide(grad), g.head_dim);
    let zeros = |len: usize| vec![0.0; len];
    let mut exact = Exact { out: zeros(q.len()), q: zeros(q.len()), k: zeros(k.len()), v: zeros(v.len()) };
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let add = |to: &mut [f64], x: &[f64], factor: f64| {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += x * factor);
    };
    for head in 0..g.batch * g.time * g.heads {
        let (batch, time) = (head / g.heads / g.time, head / g.heads % g.time);
        let kv_head = head % g.heads / (g.heads / g.kv_heads);
        let own = head * d..(head + 1) * d;
        let key = |j: usize| -> Range<usize> {
            let key = (batch * g.capacity + j) * g.kv_heads + kv_head;
            key * d..(key + 1) * d
        };
        let end = if g.is_causal { g.keys - g.time + time + 1 } else { g.keys };
        let start = inputs.starts.map_or(0, |starts| starts[head / g.heads] as usize);
        let seen = start.max(end.saturating_sub(g.window))..end;
        let scale = f64::from(g.scale);
        let score = |j: usize| {
            let score = scale * dot(&q[own.clone()], &k[key(j)]);
            g.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let steepness = |j: usize| g.softcap.map_or(1.0, |cap| 1.0 - (score(j) / f64::from(cap)).powi(2));
        let weights: Vec<f64> = seen.clone().map(|j| score(j).exp()).collect();
        let sink = inputs.sinks.map_or(0.0, |sinks| f64::from(sinks[head % g.heads]).exp());
        let sum: f64 = weights.iter().sum::<f64>() + sink;
        for (j, weight) in seen.clone().zip(&weights) {
            add(&mut exact.out[own.clone()], &v[key(j)], weight / sum);
        }
        let delta = dot(&grad[own.clone()], &exact.out[own.clone()]);
        for (j, weight) in seen.zip(&weights) {
            let weight = weight / sum;
            let score_grad = scale * steepness(j) * weight * (dot(&grad[own.clone()], &v[key(j)]) - delta);
            add(&mut exact.v[key(j)], &grad[own.clone()], weight);
            add(&mut exact.k[key(j)], &q[own.clone()], score_grad);
            add(&mut exact.q[own.clone()], &k[key(j)], score_grad);
        }
    }
    exact
}

fn assert_close<T: Element>(ours: &[T], exact: &[f64], tolerance: f64, what: &str) {
    for (i, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        let error = (f64::from(ours.to_f32()) - exact).abs();
        assert!(error <= tolerance * exact.abs().max(1.0), "{what} {i}: {} for {exact}", ours.to_f32());
    }
}

/// Forward and backward on every instruction set, from operands that are not aligned.
fn check<T: vector::Load>(g: &Geometry, starts: Option<&[i32]>, tolerance: f64) {
    check_with::<T>(g, starts, None, tolerance);
}

fn check_with<T: vector::Load>(g: &Geometry, starts: Option<&[i32]>, sinks: Option<&[f32]>, tolerance: f64) {
    let (q_len, k_len) =
        (g.batch * g.time * g.heads * g.head_dim, g.batch * g.capacity * g.kv_heads * g.head_dim);
    let draw = |len: usize, seed: u32| numbers::<T>(len + 1, seed);
    let (q, k, v, grad) = (draw(q_len, 1), draw(k_len, 2), draw(k_len, 3), draw(q_len, 4));
    let inputs = Inputs { q: &q[1..], k: &k[1..], v: &v[1..], starts, sinks };
    let exact = exact(g, &inputs, &grad[1..]);
    for isa in Isa::available() {
        let what = |name: &str| format!("{name} {isa:?} {g:?} {starts:?}");
        let (mut out, mut logsumexps) = (q.clone(), vec![0.0; q_len / g.head_dim.max(1)]);
        forward::forward(isa, g, &inputs, &mut out[1..], &mut logsumexps);
        assert_close(&out[1..], &exact.out, tolerance, &what("out"));
        let saved = backward::SavedForBackward { out: &out[1..], logsumexps: &logsumexps, grad: &grad[1..] };
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let gradients = backward::Gradients { q: &mut dq[1..], k: &mut dk[1..], v: &mut dv[1..] };
        backward::backward(isa, g, &inputs, &saved, gradients);
        assert_close(&dq[1..], &exact.q, tolerance, &what("dq"));
        assert_close(&dk[1..], &exact.k, tolerance, &what("dk"));
        assert_close(&dv[1..], &exact.v, tolerance, &what("dv"));
    }
}

#[test]
fn kernels_equal_exact_numbers() {
    for g in [
        sizes(1, 1, [1, 1, 1], 1),
        sizes(2, 1, [4, 2, 64], 9),
        // Shared by several threads, in parts that end within a block of keys.
        sizes(1, 1, [14, 2, 64], 333),
        sizes(1, 3, [3, 3, 80], 140),
        sizes(2, 67, [4, 2, 20], 67),
        sizes(1, 30, [6, 1, 128], 100),
        sizes(1, 2, [2, 1, 256], 65),
        sizes(1, 0, [2, 1, 16], 5),
    ] {
        for window in [usize::MAX, 1, 50] {
            check::<f32>(&Geometry { window, ..g }, None, 2e-5);
        }
    }
    let g = sizes(2, 67, [4, 2, 20], 67);
    check::<bf16>(&g, None, 3e-2);
    check::<f16>(&g, None, 4e-3);
}

#[test]
fn bounded_scores_and_sinks_equal_exact_numbers() {
    let sinks = [0.3, -20.0, 2.0, 5.0, -1.0, 0.0];
    for g in [
        // Text that is generated, alone and in parts, and wider groups.
        sizes(2, 1, [4, 2, 64], 9),
        sizes(1, 1, [4, 2, 64], 1500),
        sizes(1, 2, [4, 1, 64], 1500),
        sizes(1, 30, [6, 1, 128], 100),
        sizes(2, 67, [4, 2, 20], 67),
    ] {
        let sinks = Some(&sinks[..g.heads]);
        for (window, softcap) in [(usize::MAX, None), (usize::MAX, Some(0.5)), (50, Some(2.0))] {
            // Larger products, so that the bound bends them.
            let g = Geometry { window, softcap, scale: 0.7, ..g };
            check_with::<f32>(&g, None, None, 4e-5);
            check_with::<f32>(&g, None, sinks, 4e-5);
        }
    }
    let g = Geometry { softcap: Some(1.0), ..sizes(2, 67, [4, 2, 20], 67) };
    check_with::<bf16>(&g, None, Some(&sinks[..4]), 3e-2);
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let g = sizes(2, 70, [4, 2, 16], 70);
    let starts: Vec<i32> = (0..140).map(|i| if i % 70 < 31 { 0 } else { 31 + i / 70 }).collect();
    // The query at 31 of the second row would start after itself.
    let starts: Vec<i32> = starts.iter().enumerate().map(|(i, &start)| start.min(i as i32 % 70)).collect();
    check::<f32>(&g, Some(&starts), 2e-5);
    check::<f32>(&Geometry { window: 9, ..g }, Some(&starts), 2e-5);
    let sinks = [0.3, -20.0, 2.0, 5.0];
    check_with::<f32>(&Geometry { softcap: Some(0.5), ..g }, Some(&starts), Some(&sinks), 2e-5);
}

#[test]
fn large_scores_do_not_overflow() {
    let g = Geometry { scale: 40.0, ..sizes(1, 20, [2, 1, 16], 150) };
    check::<f32>(&g, None, 2e-3);
}

#[test]
fn parts_of_a_long_context_join() {
    for g in [sizes(1, 2, [4, 1, 64], 5000), sizes(1, 1, [4, 2, 64], 5000)] {
        check::<f32>(&g, None, 2e-5);
        check::<f32>(&Geometry { window: 700, ..g }, None, 2e-5);
    }
}

fn draw(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

fn worst(x: &Array, y: &Array) -> f32 {
    let worst = x.subtract(y).unwrap().abs().unwrap().max(None).unwrap();
    eval([&worst]).unwrap();
    worst.item_exact::<f32>()
}

#[test]
fn node_and_its_gradient_equal_mlx() {
    let starts = Array::from_slice(&[0, 0, 2, 2, 2, 5, 0, 1, 1, 1, 1, 1], &[2, 6]);
    for (time, capacity, len, starts) in
        [(6, 6, 6, None), (1, 9, 9, None), (3, 12, 9, None), (1, 4, 1, None), (6, 8, 6, Some(&starts))]
    {
        for (mask, softcap, sinks) in [
            (Mask::Causal, None, false),
            (Mask::Sliding(4), None, true),
            (Mask::Causal, Some(0.8), false),
            (Mask::Sliding(4), Some(0.8), true),
            (Mask::Full, None, false),
            (Mask::Full, Some(0.8), true),
        ] {
            let mut inputs =
                vec![draw(&[2, time, 6, 8], 1), draw(&[2, capacity, 2, 8], 2), draw(&[2, capacity, 2, 8], 3)];
            inputs.extend(sinks.then(|| draw(&[6], 5)));
            let weight = draw(&[2, time, 6, 8], 4);
            let run = |inputs: &[Array], ours: bool| {
                let keys = KeyValues { k: &inputs[1], v: &inputs[2], len };
                let scoring = Scoring { softcap, sinks: inputs.get(3), ..Scoring::plain(0.3, mask) };
                let run = if ours { attention } else { reference };
                run(&inputs[0], keys, scoring, starts).unwrap()
            };
            assert!(worst(&run(&inputs, true), &run(&inputs, false)) < 1e-5, "{time} {len} {mask:?}");
            let gradients = |ours: bool| {
                let loss =
                    |inputs: &[Array]| vec![run(inputs, ours).multiply(&weight).unwrap().sum(None).unwrap()];
                let all: Vec<i32> = (0..inputs.len() as i32).collect();
                value_and_grad_with_argnums(loss, &all[..])(&inputs).unwrap().1
            };
            for (ours, theirs) in gradients(true).iter().zip(&gradients(false)) {
                assert!(worst(ours, theirs) < 1e-4, "{time} {len} {mask:?}");
            }
        }
    }
}

#[test]
fn misfits_are_refused() {
    let (q, k) = (draw(&[1, 3, 4, 8], 1), draw(&[1, 3, 2, 8], 2));
    let run = |q: &Array, keys: KeyValues, mask| attention(q, keys, Scoring::plain(1.0, mask), None).is_ok();
    assert!(run(&q, KeyValues::all(&k, &k), Mask::Causal));
    assert!(!run(&q, KeyValues { k: &k, v: &k, len: 4 }, Mask::Causal));
    assert!(!run(&q, KeyValues { k: &k, v: &k, len: 2 }, Mask::Causal));
    assert!(!run(&q, KeyValues::all(&k, &q), Mask::Causal));
    assert!(!run(&draw(&[1, 3, 3, 8], 1), KeyValues::all(&k, &k), Mask::Causal));
    assert!(!run(&q, KeyValues::all(&k, &k), Mask::Sliding(0)));
    let plain = Scoring::plain(1.0, Mask::Causal);
    let run = |scoring, starts| attention(&q, KeyValues::all(&k, &k), scoring, starts).is_ok();
    let floats = draw(&[1, 3], 5);
    assert!(!run(plain, Some(&floats)));
    let (few, whole) = (draw(&[2], 5), Array::from_slice(&[0, 0, 0, 0], &[4]));
    for sinks in [&few, &whole] {
        assert!(!run(Scoring { sinks: Some(sinks), ..plain }, None));
    }
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(!run(Scoring { softcap: Some(cap), ..plain }, None));
    }
}

#[test]
fn sliding_mask_counts_the_query_itself() {
    let seen = Mask::Sliding(2).array(3, 3, None).unwrap().unwrap();
    eval([&seen]).unwrap();
    let expected = [true, false, false, true, true, false, false, true, true];
    assert_eq!(seen.as_slice::<bool>(), expected);
}

#[test]
fn mlx_with_sinks_is_the_composition_with_a_matrix_of_scores() {
    let (q, k, v) = (draw(&[2, 5, 4, 8], 1), draw(&[2, 9, 2, 8], 2), draw(&[2, 9, 2, 8], 3));
    let sinks = draw(&[4], 4);
    for mask in [Mask::Causal, Mask::Sliding(3)] {
        let scoring = Scoring { sinks: Some(&sinks), ..Scoring::plain(0.3, mask) };
        let keys = KeyValues { k: &k, v: &v, len: 7 };
        let composed = composition::composed(&q, keys, scoring, None).unwrap();
        assert!(worst(&reference(&q, keys, scoring, None).unwrap(), &composed) < 1e-5);
    }
}

#[test]
fn a_sink_takes_its_share() {
    // One key with score 0 beside a sink with score 0: half of the value is left.
    let zero = Array::zeros::<f32>(&[1, 1, 1, 2]).unwrap();
    let v = Array::ones::<f32>(&[1, 1, 1, 2]).unwrap();
    let sink = Array::zeros::<f32>(&[1]).unwrap();
    let scoring = Scoring { sinks: Some(&sink), ..Scoring::plain(1.0, Mask::Causal) };
    let y = attention(&zero, KeyValues::all(&zero, &v), scoring, None).unwrap();
    assert!(worst(&y, &Array::from_f32(0.5)) < 1e-6);
}
