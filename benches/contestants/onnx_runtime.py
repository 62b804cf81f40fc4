"""onnxruntime: its MatMulNBits operator in a model of one node."""

from __future__ import annotations

from typing import Any

from _job import Job, Result, main, operands, seconds_per_call, speed_of

ACCURACY = {"": 0, "int8": 4}
"""The operator's `accuracy_level`: what activations may be rounded to."""


def quantized_linear(job: Job) -> Result:
    """Measure one linear layer whose weight has 4 bits and a scale per group, without zero points."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"] or 0
    session = onnxruntime.InferenceSession(
        _model(job).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x, _ = operands(job)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    return speed_of(job, seconds_per_call(lambda: session.run_with_iobinding(binding)))


def _model(job: Job) -> Any:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rows, inputs, outputs, group = (job[name] for name in ("rows", "inputs", "outputs", "group"))
    rng = np.random.default_rng(0)
    groups = inputs // group
    weight = rng.integers(0, 256, (outputs, groups, group // 2), np.uint8)
    scales = rng.standard_normal((outputs, groups), np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "weight", "scales"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=4,
        block_size=group,
        accuracy_level=ACCURACY[job["variant"]],
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, outputs])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(scales, "scales")],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


main({"quantized_linear": quantized_linear}, ("onnxruntime",))
