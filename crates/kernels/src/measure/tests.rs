use super::cases::CASES;
use super::peaks::Arithmetic;
use super::report::roofline;
use super::*;
use crate::runtime::isa::Isa;

fn request() -> Request {
    Request {
        operation: Operation::QuantizedLinear,
        rows: 3,
        inputs: 128,
        outputs: 5,
        dtype: Float::Bfloat16,
        bits: Some(4),
        group_size: 64,
        accuracy: Some(Accuracy::Int8),
        sparsity: None,
    }
}

#[test]
fn a_layer_takes_time() {
    assert!(measure(&request()).unwrap() > 0.0);
    let dense = Request { operation: Operation::Linear, bits: None, accuracy: None, ..request() };
    assert!(measure(&dense).unwrap() > 0.0);
}

#[test]
fn impossible_requests_name_the_field() {
    let cases = [
        (Request { rows: 0, ..request() }, "`rows` must be from 1 to 1048576, not 0"),
        (Request { outputs: usize::MAX, ..request() }, "`outputs` must be from 1 to"),
        (
            Request { rows: 1 << 20, outputs: 1 << 20, ..request() },
            "`rows` times `outputs` must be at most 268435456",
        ),
        (Request { bits: None, ..request() }, "quantized_linear needs `bits`"),
        (Request { bits: Some(7), ..request() }, "not 7 bits and groups of 64"),
        (Request { group_size: 48, ..request() }, "not 4 bits and groups of 48"),
        (Request { inputs: 96, ..request() }, "`inputs` must be a multiple of `group_size` (64), not 96"),
        (Request { operation: Operation::Linear, ..request() }, "are for quantized_linear"),
    ];
    for (request, message) in cases {
        let error = request.check().unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

fn convolution() -> Convolution {
    Convolution {
        batch: 1,
        height: 5,
        width: 6,
        inputs: 4,
        outputs: 8,
        kernel: 3,
        stride: 2,
        groups: 2,
        dtype: Float::Float32,
        pass: Pass::Forward,
    }
}

#[test]
fn every_pass_of_a_convolution_takes_time() {
    for pass in [Pass::Forward, Pass::InputGradient, Pass::WeightGradient] {
        for (kernel, stride) in [(3, 2), (2, 1)] {
            assert!(
                measure_convolution(&Convolution { kernel, stride, pass, ..convolution() }).unwrap() > 0.0
            );
        }
    }
}

#[test]
fn impossible_convolutions_name_the_field() {
    let cases = [
        (Convolution { stride: 0, ..convolution() }, "`stride` must be from 1 to 1048576, not 0"),
        (Convolution { batch: usize::MAX, ..convolution() }, "`batch` must be from 1 to"),
        (
            Convolution { groups: 3, ..convolution() },
            "`groups` must divide `inputs` (4) and `outputs` (8), not 3",
        ),
        (Convolution { kernel: 6, ..convolution() }, "`kernel` must be at most `height` and `width`, not 6"),
        (Convolution { height: 1 << 20, width: 1 << 20, ..convolution() }, "the images must have at most"),
        (
            Convolution { inputs: 1 << 20, outputs: 1 << 20, groups: 1, ..convolution() },
            "the kernels must have at most 268435456 numbers",
        ),
    ];
    for (request, message) in cases {
        let error = request.check().unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn names_of_accuracies_are_read_as_they_are_written() {
    for accuracy in Accuracy::ALL {
        let read: Accuracy = serde_json::from_str(&format!("{:?}", accuracy.name())).unwrap();
        assert_eq!(read, accuracy);
    }
}

#[test]
fn peaks_are_there_where_the_instructions_are() {
    for isa in [Isa::Portable, Isa::detect()] {
        let peaks = Peaks::measure(isa);
        assert!(peaks.f32_gflops > 0.0 && peaks.read_gbs > 0.0);
        assert_eq!(peaks.bf16_gflops.is_some(), isa >= Isa::Avx512Bf16);
        assert_eq!(peaks.int8_gops.is_some(), isa >= Isa::Avx512Vnni);
        let bf16 = peaks.bf16_gflops.unwrap_or(peaks.f32_gflops) * 1e9;
        assert!((peaks.operations(Arithmetic::Bf16) - bf16).abs() < 1.0);
    }
}

#[test]
fn the_slower_of_memory_and_arithmetic_bounds() {
    let peaks = Peaks { f32_gflops: 100.0, bf16_gflops: Some(400.0), int8_gops: None, read_gbs: 10.0 };
    let mut case = CASES[0](Isa::Portable).unwrap();
    (case.operations, case.bytes, case.arithmetic) = (200e9, 10e9, Arithmetic::F32);
    assert_eq!(roofline(&case, &peaks), (Bound::Compute, 2.0));
    case.arithmetic = Arithmetic::Bf16;
    assert_eq!(roofline(&case, &peaks), (Bound::Memory, 1.0));
}
