"""States of earlier prompts in files: servers that are killed, and those that follow them."""

import random
import time
from pathlib import Path

import httpx
import pytest

from efficientai_toolkit.cli import main
from efficientai_toolkit.server.config import ServeConfig
from support.process import serving
from support.server import adapter, running

PROMPTS = [
    "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak. " * 2,
    "O Romeo, Romeo! wherefore art thou Romeo? Deny thy father and refuse thy name; " * 2,
    "Now is the winter of our discontent Made glorious summer by this sun of York; " * 2,
    "Once more unto the breach, dear friends, once more; Or close the wall up with our English dead. " * 4,
]
TOKENS = 24


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What a server answers that keeps nothing."""
    with running(ServeConfig(prompt_cache="0", accuracy="f32")) as server:
        return [ask(server.client, prompt)[0] for prompt in PROMPTS]


def ask(client: httpx.Client, prompt: str, model: str = "embedded") -> tuple[str, int]:
    """The answer, and how many tokens of the prompt were known."""
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    answer = client.post("/v1/completions", json=body).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def options(folder: Path) -> list[str]:
    return ["--prompt-cache-dir", str(folder), "--accuracy", "f32"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def damage(folder: Path, rng: random.Random) -> None:
    """What a power failure may leave of a file."""
    for path in files(folder):
        content = path.read_bytes()
        chance = rng.random()
        if chance < 0.3:
            path.write_bytes(content[: rng.randrange(len(content))])
        elif chance < 0.6:
            at = rng.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def kill_again_and_again(folder: Path, expected: list[str], rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        with serving(*options(folder)) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
            order = rng.sample(range(len(PROMPTS)), len(PROMPTS))
            for index in order[: rng.randrange(1, len(order) + 1)]:
                assert ask(client, PROMPTS[index])[0] == expected[index]
            body = {"prompt": rng.choice(PROMPTS) + " and", "max_tokens": 200, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as response:
                next(response.iter_lines())
                time.sleep(rng.random() * 0.1)
                process.kill()
                process.wait()
        damage(folder, rng)


def check_restart(folder: Path, expected: list[str]) -> None:
    """One server answers everything and is killed; the next one knows it."""
    with serving(*options(folder)) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        assert [ask(client, prompt)[0] for prompt in PROMPTS] == expected
        # Files are written after the answer.
        time.sleep(2)
        process.kill()
        process.wait()
    with serving(*options(folder)) as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        answers = [ask(client, prompt) for prompt in PROMPTS]
    assert [text for text, _ in answers] == expected
    assert all(cached > 30 for _, cached in answers)


def test_a_killed_server_is_followed_by_one_that_knows_its_prompts(
    tmp_path: Path, expected: list[str]
) -> None:
    kill_again_and_again(tmp_path / "states", expected, 2, seed=1)
    check_restart(tmp_path / "states", expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_however_often_and_whenever_it_is_killed(tmp_path: Path, expected: list[str]) -> None:
    kill_again_and_again(tmp_path / "states", expected, 20, seed=2)
    check_restart(tmp_path / "states", expected)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


def test_a_server_that_ends_writes_what_waits(folder: Path, expected: list[str]) -> None:
    config = ServeConfig(prompt_cache_dir=str(folder), accuracy="f32")
    with running(config) as server:
        ask(server.client, PROMPTS[3])
    assert len(files(folder)) == 1
    assert folder.stat().st_mode & 0o077 == 0
    with running(config) as server:
        text, cached = ask(server.client, PROMPTS[3])
        assert text == expected[3]
        assert cached > 100
        # In memory by now.
        assert ask(server.client, PROMPTS[3]) == (text, cached)
        assert server.metric("model_cached_prompt_tokens_total") == 2 * cached


def test_adapters_have_states_of_their_own(folder: Path, tmp_path: Path) -> None:
    def answers(seed: int, cache: Path | None) -> list[tuple[str, int]]:
        pirate = tmp_path / str(seed)
        config = ServeConfig(
            adapters={"pirate": str(pirate if pirate.exists() else adapter(pirate, seed))},
            prompt_cache_dir=None if cache is None else str(cache),
            accuracy="f32",
        )
        with running(config) as server:
            models = ["embedded", "embedded:pirate"]
            return [ask(server.client, PROMPTS[3], model) for model in models]

    first = answers(1, folder)
    assert first[0][0] != first[1][0]
    assert [cached for _, cached in first] == [0, 0]
    again = answers(1, folder)
    assert [text for text, _ in again] == [text for text, _ in first]
    assert all(cached > 100 for _, cached in again)
    # An adapter of the same name is another one.
    other = answers(2, folder)
    assert other[1] == (answers(2, None)[1][0], 0)
    assert other[0] == again[0]


def test_the_folder_is_bounded(folder: Path) -> None:
    config = ServeConfig(prompt_cache_dir=str(folder), accuracy="f32", prompt_cache_disk="1MB")
    with running(config) as server:
        for prompt in PROMPTS:
            ask(server.client, prompt)
    assert 0 < sum(file.stat().st_size for file in folder.iterdir()) <= 1_000_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt-cache-dir", "/dev/null/states"], "/dev/null/states"),
        (["--prompt-cache-disk", "much"], "prompt_cache_disk"),
    ],
)
def test_wrong_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert message in capsys.readouterr().err
