"""Studies know no room: a folder, a job, a search over any configuration, a recommendation."""

import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.study import folder
from efficientai_toolkit.study.recommend import Alternative, recommend
from efficientai_toolkit.study.search import Search, Trial
from efficientai_toolkit.study.settings import SearchConfig
from efficientai_toolkit.study.space import SearchSpace
from efficientai_toolkit.study.table import format_table, write_csv
from support.fake_engine import FakeEngine

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def jobs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_a_new_run_has_the_next_number(tmp_path: Path) -> None:
    assert folder.new_run(tmp_path / "runs", "search") == tmp_path / "runs" / "search-0001"
    for name in ("search-0002", "search-0009", "lora-0011", "search-x"):
        (tmp_path / name).mkdir()
    assert folder.new_run(tmp_path, "search") == tmp_path / "search-0010"


def test_a_name_is_reserved_when_it_is_picked(tmp_path: Path) -> None:
    runs = tmp_path / "a" / "runs"
    with ThreadPoolExecutor(16) as pool:
        picked = list(pool.map(lambda _: folder.new_run(runs, "search"), range(64)))
    assert sorted(picked) == [runs / f"search-{number:04}" for number in range(1, 65)]
    (runs / "search-0007" / "result.json").touch()
    for name in picked:
        folder.release(name)
    assert [path.name for path in runs.iterdir()] == ["search-0007"]
    (runs / "search-0007" / "result.json").unlink()
    folder.release(runs / "search-0007")
    assert not list(tmp_path.iterdir())
    # Only what was made for them.
    (tmp_path / "runs").mkdir()
    folder.release(folder.new_run(tmp_path / "runs", "search"))
    folder.release(tmp_path / "runs")
    assert (tmp_path / "runs").is_dir()


def test_a_name_that_cannot_be_reserved_is_still_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert folder.new_run(tmp_path / "file", "search") == tmp_path / "file" / "search-0001"
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    assert folder.new_run(tmp_path / "nowhere", "search") == tmp_path / "nowhere" / "search-0001"


def test_a_folder_with_another_study_is_refused(tmp_path: Path) -> None:
    folder.check_unused(tmp_path, "done.json", what="a sweep", resume=False, overwrite=False)
    (tmp_path / "done.json").touch()
    for resume, overwrite in ((True, False), (False, True)):
        folder.check_unused(tmp_path, "done.json", what="a sweep", resume=resume, overwrite=overwrite)
    with pytest.raises(
        TrainingError, match=r"holds a sweep; choose another --output, or give --resume or --overwrite$"
    ):
        folder.check_unused(tmp_path, "done.json", what="a sweep", resume=False, overwrite=False)
    with pytest.raises(TrainingError, match=r"or give --overwrite$"):
        folder.check_unused(tmp_path, "done.json", what="a sweep", resume=None, overwrite=False)


def test_results_are_kept_for_the_same_request(tmp_path: Path) -> None:
    assert folder.load_result(tmp_path, {"lr": 1}) is None
    folder.save_result(tmp_path, {"lr": 1}, {"loss": 2.5})
    assert folder.load_result(tmp_path, {"lr": 1}) == {"loss": 2.5}
    assert folder.load_result(tmp_path, {"lr": 2}) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", '"x"', "null", "{}", "[" * 100_000, "\xff",
        '{"request": {"lr": 1}}', '{"measurement": {}}', '{"request": {"lr": 1}, "measurement": [1]}',
    ],
)  # fmt: skip
def test_damaged_results_are_made_again(text: str, tmp_path: Path) -> None:
    (tmp_path / folder.RESULT).write_text(text, encoding="latin-1")
    assert folder.load_result(tmp_path, {"lr": 1}) is None


def test_fingerprints_tell_data_apart(tmp_path: Path) -> None:
    for name, text in {"a": "one", "b": "one", "c": "two"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(text)
    a, b, c = (folder.fingerprint_data([tmp_path / name]) for name in "abc")
    assert a == b
    assert a["bytes"] == c["bytes"]
    assert a["sha256"] != c["sha256"]
    assert folder.fingerprint_data([tmp_path / "a" / "train.jsonl"]) == a
    assert folder.fingerprint_data([]) == {**folder.fingerprint_data([tmp_path]), "files": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Oven(Config):
    """Something else that has settings."""

    degrees: float = setting(100.0, "how hot")
    minutes: int = setting(10, "how long")
    output: str | None = setting(None, "where to")
    resume: bool = setting(False, "go on")
    overwrite: bool = setting(False, "replace")
    seed: int = setting(0, "of chance")


class OvenSpace(SearchSpace[Oven]):
    config = Oven
    compared = frozenset({"minutes"})


@dataclass(frozen=True, kw_only=True, slots=True)
class OvenSearch(SearchConfig):
    known_objectives: ClassVar[tuple[str, ...]] = ("burnt",)
    objectives: list[str] = setting(["burnt"], "what to make small", separator=",")


class Baker:
    def __init__(self) -> None:
        self.baked: list[Oven] = []

    def check(self, config: Oven) -> None:
        """Every oven is fine."""

    def forget(self) -> None:
        """Nothing is kept."""

    def train(self, config: Oven, output: Path, on_loss: Callable[[int, float], object]) -> float:
        output.mkdir(parents=True)
        self.baked.append(config)
        burnt = abs(math.log(config.degrees / 180))
        on_loss(1, burnt)
        return burnt


def bake(config: Oven, baker: Baker, **settings: Any) -> tuple[Any, list[Trial]]:
    told: list[Trial] = []
    search = Search(
        "oven",
        given=config,
        base=config,
        config=OvenSearch(**settings),
        space=OvenSpace.from_mapping({"degrees": {"low": 50, "high": 500}}),
        objectives={"burnt": lambda burnt: burnt},
        labels={"burnt": "burnt, %"},
        runner=baker,
        on_trial=told.append,
    )
    return search.run(), told


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_any_configuration_can_be_searched(tmp_path: Path, fake_engine: FakeEngine, sampler: str) -> None:
    config = Oven(output=str(tmp_path / "search"), minutes=20)
    baker = Baker()
    result, told = bake(config, baker, trials=10, sampler=sampler)
    assert len(baker.baked) == len(told) == 10
    assert all(oven.minutes == 20 for oven in baker.baked)
    # The settings one has are tried first.
    assert baker.baked[0].degrees == 100
    assert result.best_values["burnt"] <= abs(math.log(100 / 180))
    assert result.best_settings == {"degrees": baker.baked[result.best].degrees, "minutes": 20}
    assert {"best.yaml", "history.png", "run.json", "study.db", "trials.json"} <= {
        file.name for file in result.output.iterdir()
    }
    again, _ = bake(config.with_values({"resume": True}), baker, trials=12, sampler=sampler)
    assert len(again.trials) == len(baker.baked) == 12


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a{b}", ":memory:", "ü &=;", "a'\"b"])
def test_a_search_may_be_saved_under_any_name(name: str, tmp_path: Path, fake_engine: FakeEngine) -> None:
    config = Oven(output=str(tmp_path / name))
    bake(config, Baker(), trials=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "study.db").stat().st_size > 0
    assert len(bake(config.with_values({"resume": True}), Baker(), trials=2)[0].trials) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_trial_that_was_interrupted_is_repeated(
    tmp_path: Path, fake_engine: FakeEngine, error: type[BaseException]
) -> None:
    class Stopped(Baker):
        def train(self, config: Oven, output: Path, on_loss: Callable[[int, float], object]) -> float:
            if len(self.baked) == 1:
                self.baked.append(config)
                output.mkdir()
                raise error
            return super().train(config, output, on_loss)

    config = Oven(output=str(tmp_path / "search"))
    first, second = Stopped(), Baker()
    with pytest.raises(error):
        bake(config, first, trials=3)
    result, told = bake(config.with_values({"resume": True}), second, trials=3)
    assert second.baked[0].degrees == first.baked[1].degrees
    assert len(second.baked) == len(told) == 2
    assert [(trial.number, trial.state) for trial in result.trials] == [
        (0, "complete"),
        (2, "complete"),
        (3, "complete"),
    ]
    assert sorted(path.name for path in (tmp_path / "search" / "trials").iterdir()) == [
        "0000",
        "0002",
        "0003",
    ]
    # And not once more.
    again, _ = bake(config.with_values({"resume": True}), third := Baker(), trials=4)
    assert (len(again.trials), len(third.baked)) == (4, 1)


def test_a_trial_that_kills_its_process_twice_has_failed(tmp_path: Path, fake_engine: FakeEngine) -> None:
    config = Oven(output=str(tmp_path / "search"))
    study = str(tmp_path / "search" / "study.db")

    class Killed(Baker):
        def train(self, config: Oven, output: Path, on_loss: Callable[[int, float], object]) -> float:
            # The storage as it is when the process is killed.
            shutil.copy(study, tmp_path / "copy.db")
            super().train(config, output, on_loss)
            raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            bake(config, Killed(), trials=2)
        shutil.copy(tmp_path / "copy.db", study)
        config = config.with_values({"resume": True})
    result, _ = bake(config, Baker(), trials=2)
    assert [(trial.number, trial.state, trial.reason) for trial in result.trials] == [
        (1, "failed", "the process ended"),
        (2, "complete", None),
    ]


@pytest.mark.parametrize("name", ["study.db", "study.db-journal", "trials"])
def test_a_search_follows_no_links(name: str, tmp_path: Path, fake_engine: FakeEngine) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to("../precious")
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(TrainingError, match=rf"{name} is a symbolic link, which is not followed"):
            bake(Oven(output=str(tmp_path / "out"), **settings), Baker(), trials=1)
    assert not list((tmp_path / "precious").iterdir())


def test_a_search_whose_folder_was_removed_says_so(tmp_path: Path, fake_engine: FakeEngine) -> None:
    class Removing(Baker):
        def train(self, config: Oven, output: Path, on_loss: Callable[[int, float], object]) -> float:
            shutil.rmtree(tmp_path / "out")
            return super().train(config, output, on_loss)

    with pytest.raises(TrainingError, match=r"study\.db: was it removed, or is the disk full\?"):
        bake(Oven(output=str(tmp_path / "out")), Removing(), trials=2)


def test_a_space_has_the_settings_of_its_configuration() -> None:
    with pytest.raises(ConfigError, match="unknown key `lr`"):
        OvenSpace.from_mapping({"lr": {"low": 1, "high": 2}})
    with pytest.raises(ConfigError, match="`minutes` must be the same in every run"):
        OvenSpace.from_mapping({"minutes": {"choices": [1, 2]}})
    with pytest.raises(ConfigError, match="`output` belongs to the search as a whole"):
        OvenSpace.from_mapping({"output": "x"})


def test_the_cheapest_that_is_good_enough_is_recommended() -> None:
    ways = [
        Alternative(name="slow", loss=1.0, cost=9.0),
        Alternative(name="quick", loss=1.04, cost=3.0),
        Alternative(name="bad", loss=2.0, cost=1.0),
    ]
    choice = recommend(ways, tolerance=5, cost="time", show=lambda cost: f"{cost:.0f} h")
    assert choice.method == "quick"
    assert choice.reason == (
        "its validation loss of 1.040 is within 5 % of the lowest (1.000, slow), and of the 2 that are "
        "good enough it needs the least time: 3 h"
    )
    assert recommend([], tolerance=5, cost="time", show=str).method is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bread:
    name: str
    weight: float | None


def test_rows_become_tables(tmp_path: Path) -> None:
    rows = [Bread(name="rye", weight=0.5), Bread(name="baguette", weight=None)]
    text = format_table(rows, {"bread": lambda row: row.name, "kg": lambda row: f"{row.weight or 0:.2f}"})
    assert text == "bread       kg\nrye       0.50\nbaguette  0.00"
    write_csv(tmp_path / "bread.csv", Bread, rows)
    assert (tmp_path / "bread.csv").read_text() == "name,weight\nrye,0.5\nbaguette,\n"
