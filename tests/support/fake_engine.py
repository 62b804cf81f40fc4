"""A stand-in for the compiled engine, so that the Python layer is tested without it."""

import json
import os.path
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import TrainingError

MEMORY = {
    "weights": 200_000_000,
    "optimizer": 10_000_000,
    "activations": 90_000_000,
    "update": 20_000_000,
    "peak": 320_000_000,
    "available": 6_000_000_000,
    "rows": 4,
}

NO_REWARDS = {"reward_accuracy": None, "reward_margin": None}

EVENTS: list[dict[str, Any]] = [
    {"event": "started", "steps": 4, "first_step": 0, "trainable_parameters": 50, "total_parameters": 1000},
    {"event": "estimated", **MEMORY},
    {"event": "evaluated", "step": 0, "loss": 3.0, "perplexity": 20.0, **NO_REWARDS},
    *(
        {
            "event": "step",
            "step": step,
            "steps": 4,
            "epoch": step / 4,
            "loss": 3.0 / step,
            "lr": 1e-4,
            "grad_norm": 1.0,
            "tokens_per_second": 1234.5,
            "peak_memory": 310_000_000,
            **NO_REWARDS,
        }
        for step in range(1, 5)
    ),
    {"event": "evaluated", "step": 4, "loss": 1.6, "perplexity": 5.0, **NO_REWARDS},
    {"event": "checkpoint", "step": 4, "path": "out/checkpoints/step-0000004"},
    {"event": "finished", "step": 4, "path": "out"},
]

REPORT: dict[str, Any] = {
    "final_loss": 0.75,
    "training_time_secs": 2.0,
    "peak_memory_bytes": 310_000_000,
    "loss_before": 3.0,
    "loss_after": 1.6,
    "perplexity_before": 20.0,
    "perplexity_after": 5.0,
    "tokens_per_second": 1234.5,
    "trained_tokens": 2469,
    "steps": 4,
    "train_losses": [3.0, 1.5, 1.0, 0.75],
    "validation_losses": [[0, 3.0], [4, 1.6]],
    "trainable_parameters": 50,
    "total_parameters": 1000,
    "resumed_from": None,
}

HARDWARE = {
    "backend": "cpu",
    "chip": "Test Chip",
    "cores": 2,
    "isa": ["avx2"],
    "memory_bytes": 8_000_000_000,
    "mlx_version": "0.32.2",
    "memory_limit_bytes": 6_000_000_000,
    "cache_limit_bytes": 1_000_000_000,
    "wired_limit_bytes": 0,
    "note": None,
}

KERNELS: dict[str, Any] = {
    "isa": "avx2",
    "highest_isa": "avx512",
    "threads": 2,
    "gpu": False,
    "peaks": {"f32_gflops": 100.0, "bf16_gflops": None, "int8_gops": None, "read_gbs": 20.0},
    "rows": [
        {
            "operation": "linear",
            "size": "8x8x8",
            "format": "f32",
            "path": "avx2 6x16",
            "seconds": 0.002,
            "gflops": 80.0,
            "gbs": 1.0,
            "bound": "compute",
            "share": 0.8,
        },
        {
            "operation": "softmax",
            "size": "8x8",
            "format": "f32",
            "path": "avx2",
            "seconds": 0.001,
            "gflops": 0.0,
            "gbs": 10.0,
            "bound": "memory",
            "share": 0.5,
        },
    ],
}


class Model:
    path = "model"
    model_type = "llama"
    dtype = "float32"
    num_parameters = 1000
    trained = False


class Tokenizer:
    vocab_size = 64
    has_chat_template = True

    def apply_chat_template(
        self, messages: list[dict[str, str]], tools: list[dict[str, Any]] | None, add_generation_prompt: bool
    ) -> str:
        assert add_generation_prompt
        assert tools is None
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)


class FakeEngine(types.ModuleType):
    """Answers with the prompt it got; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("efficientai_toolkit._core")
        self.calls: list[tuple[str, Any]] = []
        self.during_training: Callable[[dict[str, Any]], None] = lambda _: None
        room = types.SimpleNamespace
        self.device = room(start=self.start, hardware=self.hardware, process_group=self.process_group)
        self.kernels = room(report=self.report_kernels)
        self.models = room(load=self.load)
        self.generate = room(generate=self.generate_text, check=self.check)
        self.lora = room(
            check=self.check,
            train=self.train_lora,
            validate=self.validate_lora,
            estimate_memory=self.estimate_memory,
            check_output=self.check_output,
        )

    def check(self, config: str) -> None:
        """Every value is right."""
        json.loads(config)

    def start(self) -> None:
        """Fit."""

    def hardware(self) -> str:
        return json.dumps(HARDWARE)

    def report_kernels(self) -> str:
        return json.dumps(KERNELS)

    def load(
        self,
        path: str,
        adapter_path: str | None,
        dtype: str | None,
        bits: int | None,
        group_size: int,
        chat_template_kwargs: dict[str, Any] | None,
        sparse: str,
    ) -> tuple[Model, Tokenizer]:
        assert group_size == 64
        assert sparse == "auto"
        assert chat_template_kwargs is None or isinstance(chat_template_kwargs, dict)
        self.calls.append(("load", (path, adapter_path, dtype)))
        return Model(), Tokenizer()

    def generate_text(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prompt: str,
        config: str,
        on_text: Callable[[str], object] | None,
        add_special_tokens: bool,
    ) -> str:
        assert add_special_tokens != prompt.startswith("<")
        self.calls.append(("generate", (prompt, json.loads(config))))
        text = "a new answer" if model.trained else "an old answer"
        if on_text is not None:
            for piece in text.split(" "):
                on_text(piece)
        return json.dumps(
            {
                "text": text,
                "prompt_tokens": 5,
                "generated_tokens": 3,
                "finish_reason": "stop",
                "prompt_tokens_per_second": 100.0,
                "tokens_per_second": 50.0,
                "accuracy": None,
                "peak_memory_bytes": 1_000_000,
                "logprobs": [],
                "prompt_logprobs": [],
            }
        )

    def train_lora(
        self, model: Model, tokenizer: Tokenizer, config: str, observer: Callable[[str], object]
    ) -> str:
        settings = json.loads(config)
        self.calls.append(("train_lora", settings))
        for event in EVENTS:
            observer(json.dumps(event))
            self.during_training(settings)
        model.trained = True
        return json.dumps({**REPORT, "adapter_path": settings["output"]})

    def check_output(self, config: str) -> None:
        settings = json.loads(config)
        folder = Path(settings["output"])
        # Unlike that of a Path, false for names that are too long.
        taken = os.path.exists(folder / "training.json")  # noqa: PTH110
        if taken and not (settings["overwrite"] or settings["resume"]):
            message = f"output folder {folder} holds a finished run"
            raise TrainingError(message)

    def process_group(self) -> tuple[int, int]:
        return 0, 1

    def estimate_memory(self, model: Model, tokenizer: Tokenizer, config: str) -> str:
        self.calls.append(("estimate_memory", json.loads(config)))
        return json.dumps(MEMORY)

    def validate_lora(self, model: Model, tokenizer: Tokenizer, config: str) -> str:
        self.calls.append(("validate_lora", json.loads(config)))
        train: dict[str, Any] = {
            "rows": 9,
            "tokens": 90,
            "longest": 20,
            "truncated": 1,
            "dropped": 0,
            "targets": 66,
            "lost_targets": 6,
            "unmarked_turns": 2,
            "kinds": {"text": 9},
            "example": [{"text": "Hi\n", "learned": False}, {"text": "Hello" * 200, "learned": True}],
        }
        train["lengths"] = {"min": 4, "median": 10, "mean": 10.0, "p95": 20, "max": 20}
        train["histogram"] = [{"from": 0, "to": 9, "rows": 4}, {"from": 10, "to": 20, "rows": 5}]
        more = {"kept_tokens": 80, "trained_tokens": 60, "duplicates": 2, "vocabulary": 30}
        more |= {"near_duplicates": 3, "text_bytes": 400, "compressed_bytes": 100}
        train |= {**more, "entropy": 4.5, "packed_rows": 5, "packing_efficiency": 0.8}
        return json.dumps({"train": train, "test": dict.fromkeys(train, 0)})
