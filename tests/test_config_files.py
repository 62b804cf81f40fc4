"""Files of settings that are damaged, or made to exhaust whoever reads them."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.optimization import SearchSpace

DEEP = 100_000
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)

FILES = {
    "deep.json": ("[" * DEEP, "nested too deeply"),
    "deep_object.json": ('{"a":' * DEEP, "nested too deeply"),
    "digits.json": ('{"iters": ' + "9" * 5000 + "}", "integer"),
    "deep.yaml": ("lr: " + "[" * DEEP, "nested too deeply"),
    "deep_block.yaml": ("- " * DEEP, "nested too deeply"),
    "laughs.yaml": (LAUGHS, "aliases repeat more than 1,048,576 values"),
    "merges.yaml": (MERGES, "aliases repeat more than 1,048,576 values"),
    "itself.yaml": ("lr: &a [*a]", "refers to a value that contains it"),
    "bool.yaml": ('lr: !!bool "x"', "does not fit its tag (KeyError: 'x')"),
    "int.yaml": ('lr: !!int ""', "does not fit its tag"),
    "time.yaml": ("lr: !!timestamp x", "does not fit its tag"),
    "python.yaml": ("lr: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "day.yaml": ("lr: 2020-99-99", "month must be in 1..12"),
    "digits.yaml": ("iters: " + "9" * 5000, "integer"),
    "unhashable.yaml": ("{[1]: 2}", "unhashable"),
    "deep.toml": ("lr = " + "[" * DEEP, "nested too deeply"),
    "dots.toml": ("a" + ".a" * 50_000 + " = 1", "a key has too many parts: a.a.a."),
    "quoted_dots.toml": ('"a"' + ' . "a"' * 50_000 + " = 1", "a key has too many parts"),
    "tables.toml": ("[" + "a." * 50_000 + "a]", "a key has too many parts"),
    "inline.toml": ("x = {" + "a." * 50_000 + "a = 1}", "a key has too many parts"),
    "large.yaml": ("# " + "x" * (1 << 20), "larger than 1 MiB"),
    # As slow to search for long keys as any text.
    "words.toml": ("x" * 500_000, "Expected"),
    "dotted.toml": ("a.b " * 100_000, "Expected"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [TrainingConfig, SearchSpace])
def test_hostile_files(name: str, kind: type[TrainingConfig | SearchSpace], tmp_path: Path) -> None:
    text, message = FILES[name]
    path = tmp_path / name
    path.write_text(text)
    started = perf_counter()
    with pytest.raises(ConfigError) as caught:
        kind.from_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert perf_counter() - started < 10


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        TrainingConfig.from_file(tmp_path / "zero.yaml")
    with pytest.raises(ConfigError, match="null"):
        TrainingConfig.from_file("a\0.yaml")


def test_aliases_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: &lr 0.5\nlora_alpha: *lr\ntarget_modules: [q_proj]\n")
    assert TrainingConfig.from_file(path) == TrainingConfig(lr=0.5, lora_alpha=0.5, target_modules=["q_proj"])


def test_wrong_values_are_shown_short(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: [" + "1, " * 10_000 + "1]")
    with pytest.raises(ConfigError, match="`lr` must be a number, not <10001 items>"):
        TrainingConfig.from_file(path)
    path.write_text("iters: " + "a" * 10_000)
    with pytest.raises(ConfigError, match=r"`iters` must be a whole number, not 'aaa.*\.\.\..*aaa'$"):
        TrainingConfig.from_file(path)
