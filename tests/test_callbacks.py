import dataclasses
import io
import json
import re
import sys
import types
from typing import Any, get_args, get_type_hints

import pytest
from rich.console import Console

from efficientai_toolkit import _core
from efficientai_toolkit._base.units import format_duration, format_size
from efficientai_toolkit.callbacks import (
    Callback,
    Event,
    Finished,
    JsonLines,
    ProgressBar,
    Round,
    Silent,
    Started,
    Step,
    as_callback,
    event_to_json,
    parse_event,
    progress_bar,
)
from support.fake_engine import EVENTS


@pytest.mark.parametrize("values", EVENTS, ids=lambda values: str(values["event"]))
def test_events_survive_the_way_through_json(values: dict[str, Any]) -> None:
    event = parse_event(json.dumps(values))
    assert json.loads(event_to_json(event)) == values


def declared_kind(field: dict[str, Any]) -> Any:
    """Type of a field that the engine declares."""
    kind = {"int": int, "float": float, "str": str}[field["kind"]]
    return kind | None if field["optional"] else kind


def test_events_are_those_that_the_engine_declares() -> None:
    declared = json.loads(_core.progress.events())
    # Rounds are of federated runs, which the engine knows nothing of.
    events = [event for event in get_args(Event) if event is not Round]
    assert [event.__name__ for event in events] == [event["name"] for event in declared]
    for event, declaration in zip(events, declared, strict=True):
        hints = get_type_hints(event)
        fields = [(field.name, hints[field.name]) for field in dataclasses.fields(event)]
        assert fields == [(field["name"], declared_kind(field)) for field in declaration["fields"]], event


def play(callback: Callback) -> None:
    for values in EVENTS:
        callback.on(parse_event(json.dumps(values)))
    callback.close()


def test_json_lines_repeat_the_events() -> None:
    stream = io.StringIO()
    play(JsonLines(stream))
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == EVENTS


def test_a_log_gets_plain_lines() -> None:
    stream = io.StringIO()
    play(ProgressBar(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training 50 of 1,000 parameters (5.00%) for 4 steps"
    assert lines[1].startswith(
        "memory: about 320 MB of 6.00 GB (weights 200 MB, optimizer 30 MB, activations 90 MB)"
    )
    assert lines[2] == "validation after 0 steps: loss 3.000, perplexity 20.00"
    assert lines[3].startswith("1/4  loss 3.000  lr 1.0e-04  1,234 tok/s  310 MB  0:0")
    assert lines[-1] == "validation after 4 steps: loss 1.600, perplexity 5.00"
    assert "\x1b" not in stream.getvalue()


def test_a_long_run_fills_no_log() -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.on(Started(steps=1000, first_step=500, trainable_parameters=1, total_parameters=2))
    step = {name: EVENTS[3][name] for name in Step.__slots__}
    for number in range(501, 1001):
        bar.on(Step(**{**step, "step": number, "steps": 1000}))
    bar.close()
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("continuing after step 500")
    assert [line.split("/")[0] for line in lines[1:]] == ["600", "700", "800", "900", "1000"]


def on_terminal(width: int) -> tuple[ProgressBar, io.StringIO]:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar._console = Console(file=stream, force_terminal=True, width=width, highlight=False, color_system=None)
    return bar, stream


def screen_lines(stream: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    return [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]


def test_the_bar_on_a_terminal() -> None:
    bar, stream = on_terminal(80)
    play(bar)
    last = [line for line in screen_lines(stream) if "4/4" in line][-1]
    assert "100% 4/4  loss 0.750  lr 1.0e-04  1,234 tok/s  310 MB  0:00 left" in last


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_the_bar_fits(width: int) -> None:
    """Three columns stay free: for ``^C``, which would wrap the line and leave the bar twice."""
    bar, stream = on_terminal(width)
    play(bar)
    shown = [line for line in screen_lines(stream) if re.search(r"\d%", line) and "\u2501" in line]
    assert shown
    assert max(map(len, shown)) <= width - 3
    assert all(re.search(r" \d+% ", line) for line in shown)
    last = [line for line in shown if "4/4" in line][-1]
    assert "100%" in last
    assert "…" not in last
    assert "loss 0.750" in last or width < 40


def test_after_ctrl_c_the_bar_stands_there_once() -> None:
    bar, stream = on_terminal(80)
    bar.on(Started(steps=4, first_step=0, trainable_parameters=1, total_parameters=2))
    for values in EVENTS[3:5]:
        bar.on(parse_event(json.dumps(values)))
    drawn = stream.getvalue()
    bar.close()
    bar.close()
    ending = stream.getvalue()[len(drawn) :]
    assert ending.count("2/4") == 1
    # Drawn over the line that was there, which is erased first.
    assert ending.index("\x1b[2K") < ending.index("2/4")


class Notebook(types.ModuleType):
    """A stand-in for IPython inside of a Jupyter kernel."""

    def __init__(self) -> None:
        super().__init__("IPython")
        self.shown: list[dict[str, str]] = []

    def get_ipython(self) -> Any:
        return types.SimpleNamespace(kernel=object())

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool = False) -> "Notebook":
        assert raw
        assert display_id == (not self.shown)
        self.shown.append(content)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.display(content, raw=raw)


def test_a_notebook_gets_one_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    play(ProgressBar())
    assert notebook.shown[0]["text/plain"] == "0% first step …"
    assert '<progress value="4" max="4"' in notebook.shown[-1]["text/html"]
    assert notebook.shown[-1]["text/plain"].startswith("100% 4/4  loss 0.750")
    outcome = capsys.readouterr()
    assert outcome.err == ""
    assert "validation after 4 steps" in outcome.out


@pytest.mark.parametrize(
    ("room", "status"),
    [
        (100, "99999/99999  loss 10.500  lr 1.0e-04  99,999 tok/s  100.00 GB  10:00:00 left"),
        (60, "99999/99999  loss 10.500  99,999 tok/s  10:00:00 left"),
        (24, "99999/99999  loss 10.500"),
        (5, "99999/99999"),
    ],
)
def test_what_matters_least_is_left_out(room: int, status: str) -> None:
    step = {name: EVENTS[3][name] for name in Step.__slots__}
    numbers = {
        "step": 99999,
        "steps": 99999,
        "loss": 10.5,
        "tokens_per_second": 99999.0,
        "peak_memory": 10**11,
    }
    assert progress_bar.format_step(Step(**{**step, **numbers}), secs_left=36000, room=room) == status


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 MB"), (3_400_000, "3.4 MB"), (310_000_000, "310 MB"), (10**9, "1.00 GB")]
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("secs", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (36000, "10:00:00")]
)
def test_clock(secs: float, text: str) -> None:
    assert format_duration(secs) == text


def test_a_function_is_a_callback() -> None:
    seen: list[Event] = []
    play(as_callback(seen.append))
    assert len(seen) == len(EVENTS)
    assert isinstance(seen[-1], Finished)


def test_callbacks_stay_themselves() -> None:
    silent = Silent()
    assert as_callback(silent) is silent
    play(as_callback(None))


def test_rounds_are_told_and_survive_as_json() -> None:
    event = Round(
        round=2, rounds=4, clients=7, rejected=1, train_loss=3.25, loss=3.0, perplexity=20.1, seconds=75.0
    )
    assert parse_event(event_to_json(event)) == event
    stream = io.StringIO()
    ProgressBar(stream).on(event)
    assert stream.getvalue().split(", ") == [
        "round 2/4: 7 clients",
        "1 left out",
        "training loss 3.250",
        "validation loss 3.000",
        "perplexity 20.10",
        "1:15\n",
    ]
