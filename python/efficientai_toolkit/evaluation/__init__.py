"""Evaluation of models: perplexity, token accuracy and metrics of generated answers.

>>> import efficientai_toolkit as eat
>>> model, tokenizer = eat.load(adapter_path="runs/lora-0001")  # doctest: +SKIP
>>> eat.lora.evaluate(model, tokenizer, metrics=["perplexity", "f1"]).metrics  # doctest: +SKIP

:mod:`efficientai_toolkit.evaluation.harness` runs the tasks of lm-evaluation-harness.
"""

from efficientai_toolkit.evaluation.config import EvaluationConfig
from efficientai_toolkit.evaluation.metrics import METRICS
from efficientai_toolkit.evaluation.run import Answer, EvaluationResult, evaluate

__all__ = ["METRICS", "Answer", "EvaluationConfig", "EvaluationResult", "evaluate"]
