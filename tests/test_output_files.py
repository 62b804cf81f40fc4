"""Files that the Python package writes."""

from pathlib import Path
from typing import BinaryIO

import pytest

from efficientai_toolkit._base import files


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()], ids=repr)
def test_a_file_that_cannot_be_written_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    path = tmp_path / "made" / "report.json"
    files.write_json(path, "old")
    with pytest.raises(type(error)):
        files.replace_file(path, fill)
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("report.json", '"old"\n')]


def test_files_replace_links_and_what_killed_processes_left(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    output = tmp_path / "out"
    output.mkdir()
    for name in ("report.json", ".report.json.efficientai-tmp", "report.json"):
        (output / name).unlink(missing_ok=True)
        (output / name).symlink_to("../precious")
        files.write_json(output / "report.json", 1)
        assert [(file.name, file.is_symlink()) for file in output.iterdir()] == [("report.json", False)]
    (output / ".report.json.efficientai-tmp").write_text("half")
    files.write_json(output / "report.json", 2)
    assert [file.read_text() for file in output.iterdir()] == ["2\n"]
    assert (tmp_path / "precious").read_text() == "kept"
