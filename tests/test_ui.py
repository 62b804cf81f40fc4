"""The page without a browser: what is built, and what its handlers do."""

import asyncio
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.jobs.job import Job
from efficientai_toolkit.server.keys import create_key
from efficientai_toolkit.ui import compress, data, html, models, train
from efficientai_toolkit.ui.answers import Ask, answer_both
from efficientai_toolkit.ui.chat import list_adapters
from efficientai_toolkit.ui.compare import CompareTab, read_finished, render_advice
from efficientai_toolkit.ui.config import PageConfig
from efficientai_toolkit.ui.exports import pack
from efficientai_toolkit.ui.monitor import View, thin
from efficientai_toolkit.ui.train import TrainTab
from efficientai_toolkit.ui.uploads import delete_data, store_upload
from efficientai_toolkit.ui.workbench import Workbench
from support.hub_server import Hub
from support.hub_server import serve as serve_hub
from support.page import running_page, write_capitals
from support.server import Running

gr = pytest.importorskip("gradio")

SHORT = {"iters": 4, "max_seq_length": 64, "lr": 5e-3, "save_every": 1}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Workbench]]:
    patch = pytest.MonkeyPatch()
    config = PageConfig(workspace=str(tmp_path_factory.mktemp("space")), max_upload="1MB")
    with running_page(config, patch) as found:
        yield found
    patch.undo()


@pytest.fixture(scope="module")
def bench(page: tuple[Running, Workbench]) -> Workbench:
    return page[1]


def finish(bench: Workbench, job: Job) -> Job:
    for _ in bench.jobs.events(job.id, follow=True):
        pass
    done = bench.jobs.get(job.id)
    assert done.state == "finished", done.error
    return done


@pytest.fixture(scope="module")
def trained(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A data set that was uploaded, and an adapter that learned from it."""
    file = write_capitals(tmp_path_factory.mktemp("files") / "capitals.jsonl")
    stored = data.upload(bench, file, file.name, "embedded")
    settings = {"model_path": "embedded", "data": stored, **SHORT}
    return finish(bench, bench.jobs.submit("train", settings))


@pytest.fixture(scope="module")
def second(bench: Workbench, trained: Job) -> Job:
    """Another adapter of the same data."""
    return finish(bench, bench.jobs.submit("train", {**trained.settings, "lora_rank": 4}))


def test_the_page_lives_beside_the_other_routes_and_names_nobody_else(
    page: tuple[Running, Workbench],
) -> None:
    client = page[0].client
    first = client.get("/")
    assert first.headers["location"] == "/ui/"
    shown = client.get("/ui/")
    assert shown.status_code == 200
    assert "connect-src 'self'" in shown.headers["content-security-policy"]
    assert "fonts.g" not in shown.text
    config = client.get("/ui/config").json()
    assert config["analytics_enabled"] is False
    assert [part["props"]["label"] for part in config["components"] if part["type"] == "tabitem"] == [
        "Data", "Train", "Compare", "Chat", "Models", "Compress",
    ]  # fmt: skip
    assert client.get("/v1/models").json()["data"][0]["id"] == "embedded"
    assert client.get("/jobs").status_code == 200
    assert client.get("/favicon.ico").headers["location"] == "/ui/favicon.ico"


def test_pages_of_others_and_other_hosts_are_refused(page: tuple[Running, Workbench]) -> None:
    client = page[0].client
    assert client.get("/ui/", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/ui/", headers={"host": "evil.example"}).status_code == 403


def test_with_keys_the_page_asks_for_one_of_an_administrator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = create_key(tmp_path / "keys", "bob", is_admin=False)
    admin = create_key(tmp_path / "keys", "ann", is_admin=True)
    config = PageConfig(workspace=str(tmp_path / "space"), api_key_file=str(tmp_path / "keys"))
    with running_page(config, monkeypatch) as (server, _):
        get = server.client.get
        refused = get("/ui/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert get("/ui/", auth=("", user)).status_code == 403
        assert get("/ui/", auth=("anyone", admin)).status_code == 200
        assert get("/ui/", headers={"authorization": "Basic %%%"}).status_code == 401
        # Only the page takes passwords, so that no other site's form can use them elsewhere.
        assert get("/jobs", auth=("anyone", admin)).status_code == 401


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.exe", b"MZ", "none of .jsonl"),
        ("no-ending", b"{}", "none of"),
        ("x.jsonl", b"", "is empty"),
        ("x.jsonl", b"\x89PNG\r\n\x1a\n\0\0" * 9, "not UTF-8"),
        ("x.csv", b"a,b\n\0\0\0", "is not text"),
        ("x.parquet", b"PK\3\4", "no Parquet file"),
        ("x.jsonl", b" " * 1_000_001, "--max-upload"),
    ],
)
def test_bad_uploads_are_refused_and_leave_nothing(
    bench: Workbench, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    file = tmp_path / "upload"
    file.write_bytes(content)
    before, jobs = bench.list_data(), len(bench.jobs.list())
    with pytest.raises(DatasetError, match=reason):
        data.upload(bench, file, name, "embedded")
    assert (bench.list_data(), len(bench.jobs.list())) == (before, jobs)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../etc/passwd.jsonl", "data/passwd.jsonl"),
        ("C:\\temp\\x y=1,2.JSONL", "data/x-y-1-2.jsonl"),
        ("/.jsonl", "data/data.jsonl"),
        ("....jsonl", "data/data-2.jsonl"),
        ("<img src=x onerror=alert(1)>.csv", "data/img-src-x-onerror-alert-1.csv"),
        ("x" * 300 + ".json", f"data/{'x' * 80}.json"),
        ("a\n\0b.jsonl", "data/a-b.jsonl"),
    ],
)
def test_hostile_names_stay_in_the_workspace(
    bench: Workbench, tmp_path: Path, name: str, stored: str
) -> None:
    file = write_capitals(tmp_path / "upload", 2)
    found = store_upload(bench.workspace, file, name, limit=10**6)
    assert found == stored
    assert (bench.workspace.path / found).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["data/../workspace.db", "workspace.db", "data/none.jsonl", "", "data/"])
def test_only_uploaded_files_are_deleted(bench: Workbench, name: str) -> None:
    with pytest.raises(DatasetError, match="there is no file"):
        delete_data(bench.workspace, name)
    assert (bench.workspace.path / "workspace.db").exists()


def test_a_large_upload_is_refused_while_it_arrives(page: tuple[Running, Workbench]) -> None:
    server, _ = page
    # Larger than a body of the other routes may be, and than --max-upload.
    files = {"files": ("x.jsonl", b"{}" * 3_000_000)}
    assert server.client.post("/ui/gradio_api/upload", files=files).status_code == 413
    # Nothing else takes more than the other routes do.
    body = {"data": ["x" * 5_000_000], "fn_index": 0, "session_hash": "x"}
    assert server.post("/ui/gradio_api/queue/join", body).status_code == 413


def test_data_is_shown_as_the_model_sees_it(bench: Workbench, trained: Job) -> None:
    name = trained.settings["data"]
    assert "not chosen" not in data.render(bench, None, "embedded")
    found = data.find_check(bench, name, "embedded")
    assert found is not None
    finish(bench, found)
    shown = data.render(bench, name, "embedded")
    assert "<mark>It is city 0.&lt;|endoftext|&gt;</mark>" in shown
    assert shown.count('class="eat-row"') == 5
    assert "median length" in shown
    assert "Not checked yet" in data.render(bench, name, "another")


def test_what_rows_hold_is_no_markup() -> None:
    shown = html.example([{"text": "<script>alert(1)</script>", "learned": True}])
    assert "<script>" not in shown
    assert "<b>" not in html.error("<b>") + html.table(["<b>"], [["<b>"]]) + html.cards([("<b>", "<i>")])[:60]


def test_a_new_page_shows_the_run_again(bench: Workbench, trained: Job) -> None:
    tab = TrainTab(gr, bench)
    runs, _, chosen = tab.refresh(None, "gone", None)
    assert runs.value == trained.id
    assert chosen.value == trained.settings["data"]
    shown = tab.show(trained.id, None)
    assert "finished" in shown[0]
    assert len(shown[2]) == SHORT["iters"] + 2
    assert "step 4/4" in shown[6]
    again = tab.show(trained.id, shown[-1])
    assert all(value == gr.skip() for value in again)
    assert tab.show(10**6, None)[0] == train.EMPTY


def test_a_training_is_stopped_and_resumed(bench: Workbench, trained: Job) -> None:
    tab = TrainTab(gr, bench)
    settings = {**trained.settings, "iters": 400}
    job = bench.jobs.submit("train", settings)
    for event in bench.jobs.events(job.id, follow=True):
        if event.data["event"] == "step":
            break
    tab.stop(job.id)
    for _ in bench.jobs.events(job.id, follow=True):
        pass
    assert bench.jobs.get(job.id).state == "cancelled"
    last = bench.monitor.read(job.id).done
    tab.resume(job.id)
    for event in bench.jobs.events(job.id, bench.monitor.read(job.id).last, follow=True):
        if event.data["event"] == "step":
            assert event.data["step"] > 1
            break
    tab.stop(job.id)
    for _ in bench.jobs.events(job.id, follow=True):
        pass
    view = bench.monitor.read(job.id)
    steps = [point["step"] for point in view.steps]
    assert steps == sorted(set(steps))
    assert view.done > 0
    assert last > 0


def test_the_model_and_a_blend_answer_side_by_side(
    page: tuple[Running, Workbench], trained: Job, second: Job
) -> None:
    server, bench = page
    names = list_adapters(bench, "embedded")
    adapter = names[trained.output.rpartition("/")[2]]

    def ask(*blend: tuple[Any, float]) -> tuple[str, str | None]:
        async def collect() -> tuple[Any, Any]:
            question = Ask.from_form("embedded", "What is the capital of country 3?", [0, 1, 0, 1, 12, 0, ""])
            last: tuple[Any, Any] = ([], [])
            async for last in answer_both(bench, question, [], [], blend):
                assert last[0][0] == {"role": "user", "content": question.prompt}
            return last

        loop = asyncio.run_coroutine_threadsafe(collect(), loop_of(server))
        first, second = loop.result(60)
        return first[-1]["content"], second[-1]["content"] if second else None

    alone, nothing = ask()
    assert alone
    assert nothing is None
    assert ask((adapter, 0.0)) == (alone, alone)
    with_adapter = ask((adapter, 1.0))
    assert with_adapter[0] == alone
    assert with_adapter[1] != alone
    assert ask((adapter, 1.0), (names[second.output.rpartition("/")[2]], 0.0))[1] == with_adapter[1]
    assert server.app.state.service.pool.versions()[0][1].leases == 0


def loop_of(server: Running) -> asyncio.AbstractEventLoop:
    _, version = server.app.state.service.pool.versions()[0]
    return cast("asyncio.AbstractEventLoop", vars(version.engine)["_loop"])


def test_runs_are_compared_and_one_is_recommended(bench: Workbench, trained: Job, second: Job) -> None:
    _, runs = read_finished(bench)
    names = [job.output.rpartition("/")[2] for job in (second, trained)]
    assert set(names) <= set(runs)
    chosen = {name: runs[name] for name in names}
    assert "recommended" in render_advice(chosen, "Least memory")
    report, plot = CompareTab(gr, bench).show(names, "Training loss", "Least time")
    assert "lora_rank" in report
    assert plot.visible is True
    assert (
        CompareTab(gr, bench)
        .show(["../.."], "Training loss", "Least time")[0]
        .startswith('<div class="eat-error"')
    )


def test_an_adapter_is_registered_packed_and_merged(bench: Workbench, trained: Job) -> None:
    name = trained.output.rpartition("/")[2]
    reference = models.register(bench, f"train: {name}", "capitals")
    assert reference == "capitals/1"
    assert "capitals/1" in models.render_registry(bench)
    with pytest.raises(ConfigError, match="choose what"):
        models.register(bench, "train: ../..", "x")
    path = pack(bench.workspace, bench.workspace.path / trained.output, name)
    with zipfile.ZipFile(path) as archive:
        assert f"{name}/adapters.safetensors" in archive.namelist()
        assert archive.testzip() is None
    tab = models.ModelsTab(gr, bench)
    tab.promote("capitals/1")
    assert bench.registry.get("capitals@production").number == 1
    tab.merge(name)
    merged = finish(bench, bench.list_jobs("fuse")[0])
    models.register(bench, f"fuse: {merged.output.rpartition('/')[2]}", "merged")
    assert "merged" in bench.list_models()
    tab.export("merged", "safetensors")
    exported = finish(bench, bench.list_jobs("export")[0])
    assert (bench.workspace.path / exported.output / "model.safetensors").is_file()
    check = bench.jobs.submit("validate", {"model_path": "merged", "data": trained.settings["data"]})
    assert finish(bench, check).result is not None
    assert "keeps" in models.render_work(bench)


@pytest.mark.parametrize("name", ["", "../x", "a b/c", "file:///etc/passwd", "http://evil/x/y"])
def test_only_hub_ids_are_downloaded(bench: Workbench, name: str) -> None:
    with pytest.raises(ConfigError, match="org/name"):
        models.download(bench, name)


def test_a_download_shows_its_progress_and_is_registered(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file.name: file.read_bytes() for file in MODEL.iterdir()}
    with serve_hub(Hub({"org/model": files})) as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        job = finish(bench, models.download(bench, "https://huggingface.co/org/model/"))
    view = bench.monitor.read(job.id)
    assert view.stage == "download"
    assert view.done == view.total >= (MODEL / "model.safetensors").stat().st_size
    assert "Download: org/model" in models.render_work(bench)
    assert models.register(bench, "download: org/model", "fetched") == "fetched/1"
    assert "fetched" in bench.list_models()


def test_curves_are_thinned_to_their_end() -> None:
    points = [{"step": float(number)} for number in range(10_001)]
    few = thin(points)
    assert len(few) <= 400
    assert few[-1] == points[-1]


def test_a_resumed_run_draws_no_step_twice() -> None:
    view = View()
    step = {"event": "step", "steps": 9, "loss": 1.0, "lr": 1.0, "tokens_per_second": 1.0, "peak_memory": 1}
    started = {"event": "started", "steps": 9, "trainable_parameters": 1, "total_parameters": 2}
    view.add(0.0, {**started, "first_step": 0})
    for number in (1, 2, 3):
        view.add(0.0, {**step, "step": number})
    view.add(0.0, {**started, "first_step": 1})
    view.add(0.0, {**step, "step": 2})
    assert [point["step"] for point in view.steps] == [1, 2]


def test_a_compression_shows_its_choice_the_front_and_the_report(bench: Workbench) -> None:
    settings = {
        **compress.plan_settings("embedded", 0.6, 1, 30, None),
        "prune": ["none"],
        "quantize": ["rtn-8"],
        "sequences": 2,
        "length": 32,
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "repeats": 1,
        "rounds": 1,
    }
    job = finish(bench, bench.jobs.submit("compress", settings))
    text, front, report, seen = compress.CompressTab(gr, bench).show("")
    assert "Recommended: rtn-8" in text
    assert text == seen
    for part in (front, report):
        assert part.visible
        assert Path(compress.hand_out(bench, job)[0] or "").is_file()
    assert bench.workspace.path / "exports" in Path(compress.hand_out(bench, job)[1] or "").parents
    assert compress.CompressTab(gr, bench).show(seen)[3] == seen


def test_limits_of_a_compression_are_those_of_the_sliders() -> None:
    found = compress.plan_settings("m", 0.3, 0.5, 2.5, "data/mine")
    assert found == {
        "model_path": "m", "budget": "size=0.3,latency=0.5", "max_loss": "2.5%", "data": "data/mine",
        "calibration": "data/mine",
    }  # fmt: skip
    assert "budget" not in compress.plan_settings("m", 1, 1, 2, None)
