//! Sizes, ranges, means, and messages that no encoder makes.

use proptest::prelude::*;

use super::*;

const CODECS: [Codec; 9] = [
    Codec::Fp16 {},
    Codec::Int8 {},
    Codec::Qsgd { levels: 1 },
    Codec::Qsgd { levels: 7 },
    Codec::Qsgd { levels: 255 },
    Codec::Sign {},
    Codec::TopK { fraction: 0.1 },
    Codec::PowerSgd { rank: 1 },
    Codec::PowerSgd { rank: 4 },
];

fn numbers(count: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 7919 + 13) % 1009) as f64 / 500.0 - 1.0).collect()
}

#[test]
fn messages_have_the_length_of_the_formula() {
    for shape in [&[][..], &[0], &[1], &[7], &[3, 5], &[64, 32], &[8, 3, 3]] {
        let values = numbers(elements(shape).unwrap());
        for codec in CODECS {
            let message = codec.encode(&values, shape, 1, None).unwrap();
            assert_eq!(message.len(), codec.wire_bytes(shape).unwrap(), "{codec:?} {shape:?}");
            assert_eq!(codec.decode(&message, shape).unwrap().len(), values.len());
        }
    }
    let bits = |codec: Codec| codec.wire_bytes(&[1000]).unwrap() - 1;
    assert_eq!(CODECS.map(bits), [2000, 1004, 254, 504, 1129, 129, 525, 4000, 4000]);
}

#[test]
fn zeros_stay_zeros() {
    for codec in CODECS {
        let message = codec.encode(&[0.0; 12], &[3, 4], 1, None).unwrap();
        assert_eq!(codec.decode(&message, &[3, 4]).unwrap(), [0.0; 12], "{codec:?}");
    }
}

#[test]
fn rounding_by_chance_has_the_number_as_its_mean() {
    let values = numbers(64);
    for codec in [Codec::Int8 {}, Codec::Qsgd { levels: 1 }, Codec::Qsgd { levels: 7 }] {
        const DRAWS: u32 = 10_000;
        let mut sums = vec![0.0; values.len()];
        let mut step = 0.0;
        for seed in 0..DRAWS {
            let message = codec.encode(&values, &[64], u64::from(seed), None).unwrap();
            step = f64::from(float(&message, 1));
            for (sum, x) in sums.iter_mut().zip(codec.decode(&message, &[64]).unwrap()) {
                *sum += f64::from(x);
            }
        }
        // One draw deviates by half a step at most; five standard deviations of the mean.
        let bound = 5.0 * step / 2.0 / f64::from(DRAWS).sqrt();
        for (sum, x) in sums.iter().zip(&values) {
            assert!((sum / f64::from(DRAWS) - x).abs() < bound, "{codec:?}: {x}");
        }
    }
}

#[test]
fn power_sgd_finds_a_matrix_of_its_rank() {
    let codec = Codec::PowerSgd { rank: 2 };
    let values: Vec<f64> = (0..12 * 9)
        .map(|i: i32| {
            let (row, column) = (f64::from(i / 9), f64::from(i % 9));
            (row - 4.0) * (column + 1.0) + (row * row - 30.0) * (column - 3.0)
        })
        .collect();
    let first = codec.encode(&values, &[12, 9], 5, None).unwrap();
    let again = codec.encode(&values, &[12, 9], 6, Some(&first)).unwrap();
    for message in [first, again] {
        for (found, wanted) in codec.decode(&message, &[12, 9]).unwrap().iter().zip(&values) {
            assert!((f64::from(*found) - wanted).abs() < 1e-3, "{found} {wanted}");
        }
    }
}

#[test]
fn malformed_messages_are_refused() {
    let encoded = |codec: Codec| codec.encode(&numbers(10), &[2, 5], 1, None).unwrap();
    let refused = |codec: Codec, message: &[u8]| codec.decode(message, &[2, 5]).unwrap_err().to_string();
    for codec in CODECS {
        let message = encoded(codec);
        assert!(refused(codec, &[]).contains("is malformed: it is empty"));
        assert!(refused(codec, &message[..message.len() - 1]).contains("bytes, expected"));
        assert!(refused(codec, &[message.clone(), vec![0]].concat()).contains("bytes, expected"));
        let mut other = message.clone();
        other[0] = 99;
        assert!(refused(codec, &other).contains("begins with 99"));
    }
    let mut scale = encoded(Codec::Int8 {});
    scale[1..5].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(refused(Codec::Int8 {}, &scale).contains("the scale is no positive number"));
    let mut huge = encoded(Codec::Int8 {});
    huge[1..5].copy_from_slice(&f32::MAX.to_le_bytes());
    assert!(refused(Codec::Int8 {}, &huge).contains("is not finite"));
    let mut steps = encoded(Codec::Qsgd { levels: 7 });
    steps[5] = 0xff;
    assert!(refused(Codec::Qsgd { levels: 7 }, &steps).contains("a step is out of range"));
    let mut padding = encoded(Codec::Sign {});
    *padding.last_mut().unwrap() |= 0x80;
    assert!(refused(Codec::Sign {}, &padding).contains("behind its end"));
    let codec = Codec::TopK { fraction: 0.2 };
    let mut indices = encoded(codec);
    indices[1] |= 0x0f;
    assert!(refused(codec, &indices).contains("do not ascend"));
}

#[test]
fn wrong_options_and_numbers_are_refused() {
    for (codec, message) in [
        (Codec::Qsgd { levels: 0 }, "levels is 0"),
        (Codec::TopK { fraction: 0.0 }, "fraction is 0"),
        (Codec::TopK { fraction: f64::NAN }, "fraction is NaN"),
        (Codec::PowerSgd { rank: 0 }, "rank is 0"),
    ] {
        assert!(codec.encode(&[1.0], &[1], 0, None).unwrap_err().to_string().contains(message));
    }
    for bad in [f64::NAN, f64::INFINITY, 1e39] {
        let message = Codec::Sign {}.encode(&[0.0, bad], &[2], 0, None).unwrap_err().to_string();
        assert!(message.contains("the number at 1 is not finite"), "{message}");
    }
    assert!(Codec::Sign {}.decode(&[4], &[usize::MAX, 2]).unwrap_err().to_string().contains("elements"));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0..9_usize) {
        let codec = CODECS[which];
        for shape in [&[4, 5][..], &[10]] {
            let size = codec.wire_bytes(shape).unwrap();
            let mut message = bytes.clone();
            message.resize(size, 0);
            message[0] = codec.tag();
            if let Ok(values) = codec.decode(&message, shape) {
                prop_assert!(values.iter().all(|x| x.is_finite()));
            }
        }
    }
}
