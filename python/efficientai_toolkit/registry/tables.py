"""Tables of the registry in the database of a workspace."""

from typing import Any, cast

from sqlalchemy import JSON, Engine, ForeignKey, Table, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from efficientai_toolkit.workspace.database import Base


class ModelRow(Base):
    """A registered name; it stays when its versions are removed, so that numbers are not used again."""

    __tablename__ = "registered_models"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    last_number: Mapped[int] = mapped_column(default=0)


class VersionRow(Base):
    """A version."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey(ModelRow.id))
    number: Mapped[int]
    kind: Mapped[str]
    path: Mapped[str]
    """Relative to the workspace, or absolute if it lies elsewhere."""
    fingerprint: Mapped[str]
    size_bytes: Mapped[int]
    files: Mapped[int]
    parent: Mapped[str | None]
    base: Mapped[str | None]
    data_fingerprint: Mapped[str | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    tags: Mapped[dict[str, Any]] = mapped_column(JSON)
    description: Mapped[str]
    created: Mapped[str]
    model: Mapped[ModelRow] = relationship()
    aliases: Mapped[list["AliasRow"]] = relationship(viewonly=True)


class AliasRow(Base):
    """Where an alias points to."""

    __tablename__ = "model_aliases"

    model_id: Mapped[int] = mapped_column(ForeignKey(ModelRow.id), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey(VersionRow.id))
    version: Mapped[VersionRow] = relationship()


class AliasChangeRow(Base):
    """A move of an alias; numbers, since versions may be removed."""

    __tablename__ = "model_alias_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey(ModelRow.id))
    alias: Mapped[str]
    before: Mapped[int | None]
    after: Mapped[int | None]
    time: Mapped[str]


def create_tables(database: Engine) -> None:
    """Create the tables that do not exist."""
    tables = [cast("Table", row.__table__) for row in (ModelRow, VersionRow, AliasRow, AliasChangeRow)]
    Base.metadata.create_all(database, tables=tables)
