"""The model of a job that does not change it."""

from dataclasses import dataclass
from typing import Any, Literal

from efficientai_toolkit._base.config import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ModelConfig(Config):
    """Which model is loaded, and how; see :func:`efficientai_toolkit.load`."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    adapter_path: str | None = setting(None, "folder or hub id of LoRA adapters (default: none)")
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None, "data type of the weights (default: float32 on a CPU, that of the checkpoint on a GPU)"
    )
    bits: int | None = setting(None, "quantize the weights to this many bits (default: as in the checkpoint)")
    chat_template_kwargs: dict[str, Any] | None = setting(
        None, 'options of the chat template for all conversations, such as {"enable_thinking": false}'
    )
