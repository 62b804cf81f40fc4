"""Exports to GGUF that are refused, or fail: with a reason, and with nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError, DatasetError, DeploymentError, ModelLoadingError
from support.engine import MODELS
from support.gguf_models import change, create


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("models") / "llama", "llama", num_hidden_layers=1)


def test_what_cannot_be_written_is_refused(llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    with pytest.raises(
        ConfigError, match=r"`type` must be one of auto, f32.*not 'q4km'; did you mean q4_k_m\?"
    ):
        eat.export(llama, type="q4km", output=output)
    with pytest.raises(
        ConfigError, match='model of type "mixtral" cannot be written as GGUF here; supported'
    ):
        eat.export(MODELS / "mixtral", type="f32", output=output)
    with pytest.raises(ConfigError, match="tokenizer of type WordLevel cannot be expressed"):
        eat.export(MODELS / "llama_gqa", type="f32", output=output)
    bare = Path(shutil.copytree(llama, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadingError, match=r"tokenizer\.json: the file is missing"):
        eat.export(bare, type="f32", output=output)
    small = create(tmp_path / "small", "llama", vocab_size=100, num_hidden_layers=1)
    with pytest.raises(ConfigError, match="tokenizer has 259 tokens, but the model has 100 embeddings"):
        eat.export(small, type="f32", output=output)
    with pytest.raises(DatasetError, match="there is no folder or file nowhere"):
        eat.export(llama, type="q4_k", calibration="nowhere", output=output)
    with pytest.raises(ConfigError, match="`calibration` has no effect on q8_0"):
        eat.export(llama, type="q8_0", calibration=str(llama), output=output)
    with pytest.raises(ConfigError, match="`merge_adapter` is off"):
        eat.export(llama, merge_adapter=False, output=output)
    with pytest.raises(ConfigError, match="give `tokenizer` too"):
        eat.export(eat.load(llama)[0], output=output)
    large = Path(shutil.copytree(llama, tmp_path / "large"))
    change(large, "lm_head.weight", lambda weight: weight * 1e6)
    with pytest.raises(
        ConfigError, match=r"\"lm_head.weight\" \(output.weight\): it holds .* choose BF16 or F32"
    ):
        eat.export(large, type="f16", output=output)
    untied = create(tmp_path / "untied", "gemma2", num_hidden_layers=1, tie_word_embeddings=False)
    with pytest.raises(ConfigError, match='"tie_word_embeddings" is false'):
        eat.export(untied, type="f32", output=output)
    sliding = create(tmp_path / "sliding", "smollm3", no_rope_layers=[1, 0], num_hidden_layers=2)
    with pytest.raises(ConfigError, match=r'"no_rope_layers" is .*GGUF cannot express this model'):
        eat.export(sliding, type="f32", output=output)
    assert not [path for path in tmp_path.iterdir() if "gguf" in path.name]


def test_an_existing_output_is_kept(llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.gguf"
    output.write_text("precious")
    with pytest.raises(DeploymentError, match=r"model\.gguf exists: choose another output, or replace it"):
        eat.export(llama, output=output)
    assert output.read_text() == "precious"
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeploymentError, match="is a folder, but the format is a file"):
        eat.export(llama, output=tmp_path / "folder", overwrite=True)
    eat.export(llama, output=output, overwrite=True)
    assert output.read_bytes()[:4] == b"GGUF"


def test_a_disk_that_fills_up_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, efficientai_toolkit as eat; eat.load(sys.argv[1]);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "eat.export(sys.argv[1], type='f32', output=sys.argv[2])"
    )
    output = tmp_path / "model.gguf"
    done = subprocess.run(
        [sys.executable, "-c", code, str(llama), str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_a_file_cannot_hold_are_refused(llama: Path, tmp_path: Path) -> None:
    tied = create(tmp_path / "tied", "smollm3", num_hidden_layers=1, tie_word_embeddings=True)
    sizes = {"lm_head": (256, 320)}
    adapter = write_adapter(tmp_path / "adapter", sizes)
    output = tmp_path / "adapter.gguf"
    with pytest.raises(ConfigError, match="output head, which is part of the embeddings"):
        eat.export(tied, adapter_path=adapter, merge_adapter=False, output=output)
    query = write_adapter(tmp_path / "query", {"model.layers.0.self_attn.q_proj": (256, 256)})
    with pytest.raises(ConfigError, match="an adapter is exported as numbers, not as Q4_0"):
        eat.export(llama, adapter_path=query, merge_adapter=False, type="q4_0", output=output)
    dora = write_adapter(tmp_path / "dora", {"model.layers.0.self_attn.q_proj": (256, 256)}, magnitude=True)
    with pytest.raises(ConfigError, match=r"has magnitudes \(DoRA\)"):
        eat.export(llama, adapter_path=dora, merge_adapter=False, output=output)
    assert eat.export(llama, adapter_path=dora, type="f32", output=output).exact


def write_adapter(folder: Path, sizes: dict[str, tuple[int, int]], *, magnitude: bool = False) -> Path:
    """An adapter of layers with so many inputs and outputs."""
    folder.mkdir()
    arrays = {}
    for path, (inputs, outputs) in sizes.items():
        arrays[f"{path}.lora_a"] = mx.random.normal((inputs, 4)) / 16
        arrays[f"{path}.lora_b"] = mx.random.normal((4, outputs)) / 10
        if magnitude:
            arrays[f"{path}.m"] = mx.abs(mx.random.normal((outputs,))) + 1
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
    config = {"lora_parameters": {"rank": 4, "scale": 2.0}, "fine_tune_type": "dora" if magnitude else "lora"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
