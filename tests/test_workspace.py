"""Workspaces: files stay inside, the database is shared between processes and refuses what is not one."""

from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.workspace.database import READ_ONLY, VERSION, Base, open_database
from efficientai_toolkit.workspace.folder import Workspace


class Counter(Base):
    """A table of these tests."""

    __tablename__ = "test_counters"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


def test_paths_stay_in_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "space")
    assert workspace.resolve("runs/a") == workspace.path / "runs" / "a"
    assert workspace.resolve("~") == workspace.path / "~"
    assert workspace.resolve(str(workspace.path / "data")) == workspace.data
    (workspace.path / "out").symlink_to(tmp_path)
    for path in ("..", "../other", "/etc/passwd", "runs/../../x", "out/x", "a\0b"):
        with pytest.raises(ConfigError, match="not in the workspace"):
            workspace.resolve(path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"the workspace .*file cannot be created"):
        Workspace(tmp_path / "file")


def test_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "a?b%20c.db"
    engine = open_database(path)
    Base.metadata.create_all(engine, tables=[Counter.__table__])  # type: ignore[list-item]
    with Session(engine) as session, session.begin():
        session.add(Counter(id=1, value=0))

    def count() -> None:
        own = open_database(path)
        for _ in range(25):
            with Session(own) as session, session.begin():
                session.scalars(select(Counter)).one().value += 1

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Session(engine) as session:
        assert session.scalars(select(Counter)).one().value == 100


def test_many_threads_share_a_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_database(tmp_path / "workspace.db")
    Base.metadata.create_all(engine, tables=[Counter.__table__])  # type: ignore[list-item]

    def read() -> None:
        for _ in range(10):
            with Session(engine) as session:
                session.scalars(select(Counter)).all()

    threads = [Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not caplog.records


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "workspace.db")
    Base.metadata.create_all(engine, tables=[Counter.__table__])  # type: ignore[list-item]
    reading = engine.execution_options(**{READ_ONLY: True})
    with Session(engine) as writer, writer.begin():
        writer.add(Counter(id=1, value=7))
        writer.flush()
        with Session(reading) as session:
            assert session.scalars(select(Counter)).all() == []
    with Session(reading) as session:
        assert session.scalars(select(Counter)).one().value == 7


def test_what_is_no_database_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "workspace.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(ConfigError, match=r"workspace\.db cannot be used as a database"):
        open_database(path)
    path.unlink()
    engine = open_database(path)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigError, match="newer version of efficientai-toolkit"):
        open_database(path)
    path.with_name("link.db").symlink_to(path)
    with pytest.raises(TrainingError, match="symbolic link"):
        open_database(path.with_name("link.db"))
