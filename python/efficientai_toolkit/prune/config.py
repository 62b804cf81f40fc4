"""Configuration of pruning."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.study.folder import RUNS, new_run

Method = Literal["magnitude", "wanda", "sparsegpt", "taylor", "activation", "random", "auto"]
"""Pruning methods."""
Part = Literal["mlp", "heads", "hidden"]
"""What pattern ``width`` makes narrower."""
STRUCTURED = {"depth", "width", "width+depth"}
"""Patterns that make the model smaller."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PruneConfig(Config):
    """Configuration of pruning."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    method: Method | None = setting(
        None,
        "which weights are removed: the smallest (magnitude), those that contribute least to the outputs on "
        "calibration text (wanda), those whose loss the remaining weights can compensate, which they then do "
        "(sparsegpt), those without which the loss on it changes least (taylor), or random ones; auto "
        "chooses the method with the least output error for each layer; pattern depth: the blocks that "
        "change their inputs least (activation), or random ones; pattern width: the channels of the smallest activations "
        "(activation), contributions (wanda), changes of the loss (taylor) or weights (magnitude), or random "
        "ones (default: sparsegpt, patterns depth and width: activation)",
    )
    sparsity: float | None = setting(
        None,
        "fraction of the weights, blocks or channels to remove, between 0 and 1; width+depth: of both "
        "together (default: 0.5, patterns depth and width: 0.2, or as the pattern says)",
    )
    pattern: str = setting(
        "unstructured",
        "what may be removed: any weights (unstructured), all but N of every M consecutive ones, such as "
        "2:4, or, which makes the model smaller, whole blocks (depth), channels of all layers (width), or "
        "both (width+depth)",
    )
    width: list[Part] = setting(
        ["mlp"],
        "width: what becomes narrower: feed-forward layers by their channels (mlp), attention by its heads, "
        "in groups that share a key and a value head (heads), the residual stream and with it every layer "
        "(hidden); separate several by commas",
        separator=",",
    )
    contiguous: bool = setting(False, "depth, width+depth: remove consecutive blocks only")
    allocation: Literal["uniform", "owl", "sensitivity"] = setting(
        "uniform",
        "how the sparsity is divided among the blocks: the same everywhere (uniform), less where more "
        "weights stand out (owl), or less where the predictions suffer more (sensitivity)",
    )
    allocation_range: float = setting(
        0.08, "owl, sensitivity: largest difference between the sparsity of a block and the mean"
    )
    owl_threshold: float = setting(
        5.0, "owl: a weight stands out if its score is this many times the mean of its layer"
    )
    repair: Literal["none", "scale", "least_squares"] = setting(
        "none",
        "repair of each pruned layer without training: rows are scaled (scale), or all remaining weights "
        "changed (least_squares), so that outputs on calibration text are closest to the original ones",
    )
    skip: list[str] = setting(
        [],
        "layers to leave as they are, by pattern, such as '*.0.*' or '*.down_proj'; separate several by "
        "commas",
        separator=",",
    )
    calibration: str | None = setting(
        None,
        "calibration text: a data file or folder, as for training (default: the bundled instructions, none "
        "for magnitude and random)",
    )
    calibration_sequences: int = setting(64, "maximum number of calibration sequences")
    sequence_length: int = setting(512, "tokens per calibration sequence")
    damping: float = setting(
        0.01, "sparsegpt: share of the mean diagonal of the Hessian that is added to the diagonal"
    )
    act_order: bool = setting(False, "sparsegpt: prune columns in order of decreasing activation size")
    seed: int = setting(0, "random seed of the calibration text and of random pruning")
    resume: bool = setting(False, "resume an interrupted run after the last finished block")
    overwrite: bool = setting(False, "replace the run in the output folder")

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.prune.check(self.to_json())

    def with_defaults_filled(self) -> "PruneConfig":
        """Return a copy with model, calibration text and output folder filled in.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``resume`` is set without ``output``.
        DatasetError
            If ``calibration`` does not exist.
        """
        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the run to resume: give --output too"
            raise ConfigError(message)
        calibration = self.calibration
        if calibration is None and self._needs_text:
            calibration = str(INSTRUCTIONS)
        elif calibration is not None:
            calibration = str(Path(calibration).expanduser())
            if not Path(calibration).exists():
                message = f"there is no folder or file {calibration}"
                raise DatasetError(message)
        return replace(
            self,
            model_path=self.model_path or str(MODEL),
            method=self._chosen_method,
            calibration=calibration,
            output=str(
                new_run(Path(RUNS), "prune") if self.output is None else Path(self.output).expanduser()
            ),
        )

    @property
    def _chosen_method(self) -> Method:
        return self.method or ("activation" if self.pattern in STRUCTURED else "sparsegpt")

    @property
    def _needs_text(self) -> bool:
        is_blind = self.method in {"magnitude", "random"}
        return not is_blind or self.allocation != "uniform" or self.repair != "none"
