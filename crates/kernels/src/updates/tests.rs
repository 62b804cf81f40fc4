//! Every operation against a plain loop in f64, on every instruction set, in every format.

use half::{bf16, f16};

use super::*;
use crate::Isa;

/// Numbers that look random, the same for every instruction set.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `clients` rows in f32, two tensors of odd sizes.
fn updates(clients: usize) -> [Vec<Vec<f32>>; 2] {
    [5003, 17].map(|len| {
        let row = |client| numbers(len, (client * 131 + len) as u64).iter().map(|&x| x as f32).collect();
        (0..clients).map(row).collect()
    })
}

fn views(tensors: &[Vec<Vec<f32>>]) -> Vec<Vec<Values<'_>>> {
    tensors.iter().map(|rows| rows.iter().map(|row| Values::F32(row)).collect()).collect()
}

fn outputs(tensors: &[Vec<Vec<f32>>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|rows| vec![f32::NAN; rows[0].len()]).collect()
}

fn each_column(tensors: &[Vec<Vec<f32>>], out: &[Vec<f32>], expected: impl Fn(Vec<f64>) -> f64) {
    for (rows, out) in tensors.iter().zip(out) {
        for (column, &out) in out.iter().enumerate() {
            let wanted = expected(rows.iter().map(|row| f64::from(row[column])).collect());
            assert!((f64::from(out) - wanted).abs() < 1e-6, "column {column}: {out} {wanted}");
        }
    }
}

#[test]
fn weighted_sums() {
    for isa in Isa::available() {
        for clients in [1, 2, 7] {
            let tensors = updates(clients);
            let weights: Vec<f64> = (0..clients).map(|i| i as f64 + 0.5).collect();
            let mut out = outputs(&tensors);
            let slices = out.iter_mut().map(|out| ValuesMut::F32(out)).collect();
            assert!(weighted_sum(isa, &views(&tensors), &weights, slices));
            each_column(&tensors, &out, |x| x.iter().zip(&weights).map(|(x, w)| x * w).sum());
        }
    }
}

#[test]
fn statistics_of_columns() {
    let sorted = |mut x: Vec<f64>| {
        x.sort_by(f64::total_cmp);
        x
    };
    for isa in Isa::available() {
        for clients in [1, 2, 3, 8, 21] {
            let tensors = updates(clients);
            for cut in [0, (clients - 1) / 4, (clients - 1) / 2] {
                let mut out = outputs(&tensors);
                let slices = out.iter_mut().map(|out| ValuesMut::F32(out)).collect();
                let statistic = Statistic::TrimmedMean { cut };
                column_statistic(isa, &views(&tensors), None, statistic, slices);
                each_column(&tensors, &out, |x| {
                    let x = &sorted(x)[cut..clients - cut];
                    x.iter().sum::<f64>() / x.len() as f64
                });
            }
            let keep = clients.div_ceil(2);
            let mut out = outputs(&tensors);
            let slices = out.iter_mut().map(|out| ValuesMut::F32(out)).collect();
            column_statistic(isa, &views(&tensors), None, Statistic::MeanAroundMedian { keep }, slices);
            each_column(&tensors, &out, |x| {
                let x = sorted(x);
                let median = f64::midpoint(x[(clients - 1) / 2], x[clients / 2]);
                let mut near = x.clone();
                near.sort_by(|a, b| (a - median).abs().total_cmp(&(b - median).abs()));
                near[..keep].iter().sum::<f64>() / keep as f64
            });
        }
    }
}

#[test]
fn mixtures_come_before_the_statistic() {
    let tensors = updates(4);
    let mixture = vec![vec![0.5, 0.5, 0.0, 0.0], vec![0.0, 0.0, 0.25, 0.75], vec![1.0, 0.0, 0.0, 0.0]];
    for isa in Isa::available() {
        let mut out = outputs(&tensors);
        let slices = out.iter_mut().map(|out| ValuesMut::F32(out)).collect();
        column_statistic(isa, &views(&tensors), Some(&mixture), Statistic::TrimmedMean { cut: 1 }, slices);
        each_column(&tensors, &out, |x| {
            let mut mixed: Vec<f64> =
                mixture.iter().map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum()).collect();
            mixed.sort_by(f64::total_cmp);
            mixed[1]
        });
    }
}

#[test]
fn small_differences_of_large_numbers() {
    for isa in Isa::available() {
        for clients in [1, 2, 5, 9] {
            let mut tensors = updates(clients);
            for (rows, scale) in tensors.iter_mut().zip([1e-5, 1e-4]) {
                for x in rows.iter_mut().flatten() {
                    *x = 100.0 + *x * scale;
                }
            }
            let found = squared_distances(isa, &views(&tensors));
            for i in 0..clients {
                for j in 0..clients {
                    let pairs = tensors.iter().flat_map(|rows| rows[i].iter().zip(&rows[j]));
                    let wanted: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
                    let difference = (found[i * clients + j] - wanted).abs();
                    assert!(difference <= 1e-12 * wanted, "{i} {j}");
                }
            }
        }
    }
}

#[test]
fn who_is_not_finite_is_told() {
    for isa in Isa::available() {
        for (bad, tensor, column) in [(f32::NAN, 0, 4000), (f32::INFINITY, 1, 16), (f32::NEG_INFINITY, 0, 0)]
        {
            let mut tensors = updates(5);
            tensors[tensor][3][column] = bad;
            let mut out = outputs(&tensors);
            let slices = out.iter_mut().map(|out| ValuesMut::F32(out)).collect();
            let views = views(&tensors);
            assert!(!weighted_sum(isa, &views, &[1.0; 5], slices));
            assert!(!is_finite(isa, views[tensor][3]) && is_finite(isa, views[tensor][2]));
            assert_eq!(views[tensor][3].first_non_finite(), Some(column));
            assert!(!squared_distances(isa, &views)[3].is_finite());
        }
    }
}

#[test]
fn halves_are_rounded_once() {
    let wide = numbers(1000, 3);
    let (halves, brains): (Vec<f16>, Vec<bf16>) =
        (wide.iter().map(|&x| f16::from_f64(x)).collect(), wide.iter().map(|&x| bf16::from_f64(x)).collect());
    for isa in Isa::available() {
        let mut out = vec![f16::ZERO; 1000];
        // A thousand clients that all say the same, as float16 sums of a thousand do not.
        let clients = vec![Values::F16(&halves); 1000];
        assert!(weighted_sum(isa, &[clients], &[1e-3; 1000], vec![ValuesMut::F16(&mut out)]));
        assert_eq!(out, halves);
        let mut sum = vec![0.0; 1000];
        for _ in 0..1000 {
            accumulate(isa, &mut sum, Values::Bf16(&brains), 2.0);
        }
        let mut out = vec![bf16::ZERO; 1000];
        scale(isa, &sum, 1.0 / 2000.0, ValuesMut::Bf16(&mut out));
        assert_eq!(out, brains);
    }
}
