"""The form of a training."""

from collections.abc import Sequence
from typing import Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.ui.data import BUNDLED, list_choices, to_setting
from efficientai_toolkit.ui.events import QUIET
from efficientai_toolkit.ui.settings import (
    METHODS,
    NUMBERS,
    PRESETS,
    build_settings,
    default_of,
    parse_yaml,
    split_settings,
    suggest_lr,
)
from efficientai_toolkit.ui.workbench import Workbench, model_of

_LABELS = {
    "epochs": ("Epochs", "passes over the data"),
    "iters": ("Steps", "instead of epochs; empty: by epochs"),
    "lr": ("Learning rate", None),
    "batch_size": ("Batch size", "rows per step"),
    "lora_rank": ("LoRA rank", "size of the adapter"),
    "lora_alpha": ("LoRA alpha", "often twice the rank"),
    "max_seq_length": ("Maximum length", "tokens per row; longer rows are cut"),
}


class TrainingForm:
    """Fields of the settings that most trainings set; ``extra`` holds the others."""

    def __init__(self, gr: Any, bench: Workbench) -> None:
        self._gr = gr
        self._bench = bench
        self.fields: list[Any] = []
        """All that change the settings."""
        self.values: list[Any] = []
        """Inputs of :meth:`read`, and outputs of :meth:`fill`."""
        self.choices: list[Any] = []
        """Those whose choices change: model and data set."""

    def build(self) -> None:
        """Build the components."""
        gr = self._gr
        models = self._bench.list_models()
        model = gr.Dropdown(
            models, value=models[0], label="Model", allow_custom_value=True, elem_id="train-model"
        )
        data = gr.Dropdown(
            list_choices(self._bench),
            value=None,
            label="Data set",
            allow_custom_value=True,
            elem_id="train-data",
        )
        method = gr.Dropdown(list(METHODS), value=next(iter(METHODS)), label="Method", elem_id="train-method")
        preset = gr.Radio(list(PRESETS), value="Quick try", label="Preset", elem_id="train-preset")
        start = {"lr": suggest_lr(models[0], next(iter(METHODS))), **PRESETS["Quick try"]}
        numbers: list[Any] = []
        with gr.Accordion("Settings", open=False):
            for pair in range(0, len(NUMBERS), 2):
                with gr.Row():
                    for name in NUMBERS[pair : pair + 2]:
                        label, info = _LABELS[name]
                        numbers.append(
                            gr.Number(
                                start.get(name, default_of(name)),
                                label=label,
                                info=info,
                                min_width=110,
                                elem_id=f"train-{name}",
                            )
                        )
            extra = gr.State({})
        self.choices = [model, data]
        self.fields = [model, data, method, *numbers, extra]
        self.values = list(self.fields)
        preset.change(self.apply_preset, [preset, model, method], numbers, **QUIET)
        for field in (model, method):
            field.input(suggest_lr, [model, method], numbers[NUMBERS.index("lr")], **QUIET)

    def apply_preset(self, preset: str, model: str, method: str) -> list[Any]:
        """Return the numbers of a preset."""
        chosen = {"lr": suggest_lr(model, method), **PRESETS[preset]}
        return [chosen.get(name, default_of(name)) for name in NUMBERS]

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the settings; errors as in :func:`build_settings`."""
        model, data, method, *numbers, extra = values
        if not data:
            message = "choose a data set: one that you upload in the tab Data, or the bundled example"
            raise ConfigError(message)
        given: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
        return build_settings(model, to_setting(data), method, given, extra)

    def fill(self, text: str) -> list[Any]:
        """Return the values of all fields from YAML; errors as in :func:`parse_yaml`."""
        settings = parse_yaml(text)
        method, extra = split_settings(settings)
        root = f"{self._bench.workspace.path}/"
        data = settings.get("data")
        named = {str(self._bench.find_model(name)): name for name in self._bench.list_models()}
        model = model_of(settings)
        return [
            named.get(model, model),
            BUNDLED if data is None else data.removeprefix(root),
            method,
            *(settings.get(name, default_of(name)) for name in NUMBERS),
            extra,
        ]
