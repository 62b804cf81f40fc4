"""The database of a workspace: SQLite in write-ahead mode, so that readers never wait for a writer."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from efficientai_toolkit._base.files import refuse_link
from efficientai_toolkit.exceptions import ConfigError

VERSION = 1
"""Version of the tables, kept in SQLite's ``user_version``."""

READ_ONLY = "read_only"
"""Execution option of an engine whose transactions only read, and so never wait."""

_ENDINGS = ("", "-journal", "-wal", "-shm")
_PATIENCE = 30.0
"""Seconds that a writer waits for another one."""


class Base(DeclarativeBase):
    """Base class of the tables."""


def open_database(path: Path) -> Engine:
    """Open the database in a file, which is created if it does not exist.

    Parameters
    ----------
    path
        File; its folder exists.

    Returns
    -------
    Engine
        Every room creates its own tables with ``Base.metadata.create_all``.

    Raises
    ------
    ConfigError
        If the file is no database, or of a newer version of this package.
    TrainingError
        If it is a symbolic link.
    """
    for ending in _ENDINGS:
        refuse_link(path.with_name(path.name + ending))
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _PATIENCE})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version == 0:
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
    except DatabaseError as error:
        message = f"{path} cannot be used as a database: {error.orig}; choose another workspace"
        raise ConfigError(message) from error
    if version > VERSION:
        message = f"{path} was written by a newer version of efficientai-toolkit; update the package"
        raise ConfigError(message)
    return engine


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn errors of the database in the workspace ``path`` into ``ConfigError``."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        message = f"the database of the workspace {path} cannot be used: {reason}"
        raise ConfigError(message) from error


def _configure(connection: Any, _record: object) -> None:
    # The driver would begin transactions late, after the first read; `_begin` does it instead.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes must not fail half way because another one wrote.
    only_reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
