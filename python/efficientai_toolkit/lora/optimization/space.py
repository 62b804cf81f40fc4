"""Search space of training runs."""

from collections.abc import Mapping

from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.study import space


class SearchSpace(space.SearchSpace[TrainingConfig]):
    """Search space over a :class:`~efficientai_toolkit.lora.TrainingConfig`."""

    __slots__ = ()

    config = TrainingConfig
    compared = frozenset(
        {"model_path", "data", "eval_batches", "eval_every", "mask_prompt", "max_seq_length"}
    )

    @classmethod
    def default(cls) -> "SearchSpace":
        """Return the default search space for low-rank adapters."""
        return cls(
            searched={
                "lr": space.Range(low=1e-5, high=1e-2, log=True, whole=False),
                "lora_rank": space.Range(low=4, high=64, log=True, whole=True),
                "lora_dropout": space.Range(low=0.0, high=0.2, log=False, whole=False),
                "batch_size": space.Choices(values=(2, 4, 8)),
            },
            fixed={},
        )

    def apply(self, base: TrainingConfig, drawn: Mapping[str, object]) -> TrainingConfig:
        """Return the configuration of a run with the sampled values.

        If the rank is searched and ``lora_alpha`` is not, alpha is adjusted so that the adapter scale is
        proportional to ``1 / √rank`` as in `rsLoRA <https://arxiv.org/abs/2312.03732>`_. One learning rate
        then suits all ranks.
        """
        config = super().apply(base, drawn)
        is_coupled = "lora_rank" in drawn and not {"lora_alpha"} & {*drawn, *self.fixed}
        if not is_coupled or config.use_rslora:
            return config
        root = (config.lora_rank / base.lora_rank) ** 0.5
        return config.with_values({"lora_alpha": base.lora_alpha * root})
