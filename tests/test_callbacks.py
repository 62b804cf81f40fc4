import dataclasses
import io
import json
from typing import Any, get_args, get_type_hints

import pytest
from rich.console import Console

from efficientai_toolkit import _core
from efficientai_toolkit.callbacks import (
    Callback,
    Event,
    Finished,
    JsonLines,
    ProgressBar,
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
    assert [event.__name__ for event in get_args(Event)] == [event["name"] for event in declared]
    for event, declaration in zip(get_args(Event), declared, strict=True):
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
        "memory: about 0.32 of 6.00 GB (weights 0.20, optimizer 0.03, activations 0.09)"
    )
    assert lines[2] == "validation after 0 steps: loss 3.000, perplexity 20.00"
    assert lines[3].startswith("1/4  loss 3.000  lr 1.0e-04  1,234 tok/s  0.31 GB  0:0")
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


def test_the_bar_fits_into_80_columns() -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar._console = Console(file=stream, force_terminal=True, width=80, highlight=False, color_system=None)
    play(bar)
    last = [line for line in stream.getvalue().replace("\r", "\n").splitlines() if "4/4" in line][-1]
    shown = last.split("\x1b[2K")[-1]
    assert len(shown.rstrip()) <= 80
    assert "4/4  loss 0.750  lr 1.0e-04  1,234 tok/s  0.31 GB  0:00 left" in shown


def test_the_widest_status_leaves_room_for_a_bar() -> None:
    step = {name: EVENTS[3][name] for name in Step.__slots__}
    wide = Step(
        **{
            **step,
            "step": 99999,
            "steps": 99999,
            "loss": 10.5,
            "tokens_per_second": 99999.0,
            "peak_memory": 10**11,
        }
    )
    assert len(progress_bar.format_step(wide, secs_left=36000)) <= 77


@pytest.mark.parametrize(
    ("secs", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (36000, "10:00:00")]
)
def test_clock(secs: float, text: str) -> None:
    assert progress_bar.format_duration(secs) == text


def test_a_function_is_a_callback() -> None:
    seen: list[Event] = []
    play(as_callback(seen.append))
    assert len(seen) == len(EVENTS)
    assert isinstance(seen[-1], Finished)


def test_callbacks_stay_themselves() -> None:
    silent = Silent()
    assert as_callback(silent) is silent
    play(as_callback(None))
