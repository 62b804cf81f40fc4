"""Tasks of `lm-evaluation-harness <https://github.com/EleutherAI/lm-evaluation-harness>`_.

>>> from efficientai_toolkit.evaluation.harness import HarnessModel
>>> lm_eval.simple_evaluate(HarnessModel(model, tokenizer), tasks=["arc_easy"])  # doctest: +SKIP

Needs the extra ``lm-eval``. It works without PyTorch.
"""

# The harness has no types and is not installed where types are checked.
# pyright: basic, reportMissingImports=false

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efficientai_toolkit._base.extras import missing
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.generation import GenerateConfig

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

try:
    import lm_eval
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise missing(error, module="lm_eval", extra="lm-eval", purpose="lm-evaluation-harness") from error


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Adapter of a loaded model to the harness's model interface.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    max_length
        Maximum sequence length; by default ``max_position_embeddings`` of the model. Longer sequences are
        truncated on the left, as in the harness.
    batch_size
        Number of sequences per forward pass.
    max_gen_toks
        Maximum length of answers, unless the task sets it.
    """

    def __init__(
        self,
        model: "Model",
        tokenizer: "Tokenizer",
        *,
        max_length: int | None = None,
        batch_size: int = 8,
        max_gen_toks: int = 256,
    ) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self.max_length = max_length or int(model.config.get("max_position_embeddings", 2048))
        self.batch_size = batch_size
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        """End-of-text token, also used as an empty context."""
        return self._tokenizer.eos_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """Beginning-of-text token, or the end-of-text token if the tokenizer adds none."""
        return (self._tokenizer.encode("", add_special_tokens=True) or [self.eot_token_id])[0]

    @property
    def tokenizer_name(self) -> str:
        """Name that identifies the model in the harness's cache."""
        return str(self._model.path).replace("/", "__")

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001
        **_: Any,
    ) -> list[int]:
        """Encode a text; ``None`` adds special tokens unless the text begins with one."""
        if add_special_tokens is None:
            add_special_tokens = not self._is_opened(string)
        ids = self._tokenizer.encode(string, add_special_tokens=add_special_tokens)
        # Some tokenizers end every text; a context goes on.
        while len(ids) > 1 and add_special_tokens and ids[-1] == self.eot_token_id:
            ids.pop()
        return ids

    def _is_opened(self, text: str) -> bool:
        """Return whether a text begins with the beginning-of-text token."""
        opening = self._tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
        return bool(opening) and text.startswith(opening)

    def apply_chat_template(
        self,
        chat_history: list[dict[str, str]],
        add_generation_prompt: bool = True,  # noqa: FBT001, FBT002
    ) -> str:
        """Apply the chat template to a conversation."""
        return self._tokenizer.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str:  # noqa: ARG002, FBT001, FBT002
        """Return the name of the chat template; only the tokenizer's own is supported."""
        return "default" if self._tokenizer.has_chat_template else ""

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        **_kwargs: Any,
    ) -> list[tuple[float, bool]]:
        from efficientai_toolkit._engine.core import core

        rows: list[tuple[list[int], int]] = []
        for _, context, continuation in requests:
            ids = (context + continuation)[-(self.max_length + 1) :]
            rows.append((ids, max(len(ids) - len(continuation), 1)))
        scored = core.evaluate.score_tokens(self._model, rows, self.batch_size)
        results: list[tuple[float, bool]] = []
        for (texts, _, _), row in zip(requests, scored, strict=True):
            result = sum(score for score, _ in row), all(likeliest for _, likeliest in row)
            self.cache_hook.add_partial("loglikelihood", texts, result)
            results.append(result)
        return results

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002, FBT001, FBT002
        """Compute log-likelihoods of whole texts with a rolling window."""
        results: list[float] = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(("", ""), *utils.make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(pairs))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            results.append(total)
        return results

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002, FBT001, FBT002
        """Generate answers up to the stop sequences of the task."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, request: str, settings: dict[str, Any]) -> str:
        from efficientai_toolkit._engine.core import core

        context, until = request, settings.get("until") or []
        sampled = bool(settings.get("do_sample", settings.get("temperature", 0.0) > 0))
        try:
            config = GenerateConfig(
                max_tokens=settings.get("max_gen_toks", self.max_gen_toks),
                temperature=settings.get("temperature", 1.0) if sampled else 0.0,
                top_p=settings.get("top_p", 1.0),
                stop=[until] if isinstance(until, str) else list(until),
            )
        except ConfigError as error:
            message = f"a task of the harness asks for an impossible generation: {error}"
            raise ConfigError(message) from error
        room = max(self.max_length - config.max_tokens, 1)
        ids = self.tok_encode(context)
        is_cut = len(ids) > room
        if is_cut:
            context = self._tokenizer.decode(ids[-room:], skip_special_tokens=False)
        report = core.generate.generate(
            self._model,
            self._tokenizer,
            context,
            config.to_json(),
            None,
            add_special_tokens=not (is_cut or self._is_opened(context)),
        )
        answer: str = json.loads(report)["text"]
        self.cache_hook.add_partial("generate_until", (request, settings), answer)
        return answer


def run_tasks(
    model: "Model",
    tokenizer: "Tokenizer",
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    include_path: str | None = None,
    include_defaults: bool = True,
) -> dict[str, dict[str, float]]:
    """Evaluate a model on tasks of the harness.

    Parameters
    ----------
    model, tokenizer
        From :func:`efficientai_toolkit.load`.
    tasks
        Names of tasks, groups or tags.
    limit
        Maximum number of documents per task.
    num_fewshot
        Number of few-shot examples; by default that of the task.
    batch_size
        Number of sequences per forward pass.
    include_path
        Folder with additional task files.
    include_defaults
        Whether to index the tasks bundled with the harness, which takes several seconds.

    Returns
    -------
    dict
        Metrics by task and metric name.

    Raises
    ------
    ConfigError
        If a task is unknown.
    """
    manager = TaskManager(include_path=include_path, include_defaults=include_defaults)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        message = f"lm-evaluation-harness has no task `{unknown[0]}`; `lm-eval ls tasks` lists them"
        raise ConfigError(message)
    harness: Any = lm_eval
    report = harness.simple_evaluate(
        HarnessModel(model, tokenizer, batch_size=batch_size),
        tasks=list(tasks),
        limit=limit,
        num_fewshot=num_fewshot,
        task_manager=manager,
    )
    return {
        task: {
            # "acc,none" is the metric `acc` without a filter.
            key.removesuffix(",none"): float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, values in report["results"].items()
    }
