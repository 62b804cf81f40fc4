"""Rows of the registry, and what they tell."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from efficientai_toolkit.registry.names import PRODUCTION, Reference, UnknownVersionError
from efficientai_toolkit.registry.tables import AliasChangeRow, AliasRow, ModelRow, VersionRow
from efficientai_toolkit.registry.version import Kind, ModelVersion
from efficientai_toolkit.workspace.folder import Workspace


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def find_model(session: Session, name: str) -> ModelRow:
    """Return a registered name.

    Raises
    ------
    UnknownVersionError
        If there is none.
    """
    model = session.scalar(select(ModelRow).where(ModelRow.name == name))
    if model is None:
        message = f"no model is registered as {name}; registry:list shows those that are"
        raise UnknownVersionError(message)
    return model


def find_version(session: Session, reference: Reference) -> VersionRow:
    """Return the version that a reference names; a name alone is its production version, else its latest.

    Raises
    ------
    UnknownVersionError
        If there is none.
    """
    model = find_model(session, reference.name)
    if reference.number is not None:
        row = session.scalar(
            select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.number == reference.number)
        )
        if row is None:
            message = f"{reference.name} has no version {reference.number}; registry:show lists those it has"
            raise UnknownVersionError(message)
        return row
    found = session.get(AliasRow, (model.id, reference.alias or PRODUCTION))
    if found is not None:
        return found.version
    if reference.alias is not None:
        message = f"{reference.name} has no alias {reference.alias}; registry:promote sets it"
        raise UnknownVersionError(message)
    latest = session.scalar(
        select(VersionRow).where(VersionRow.model_id == model.id).order_by(VersionRow.number.desc()).limit(1)
    )
    if latest is None:
        message = f"{reference.name} has no versions left; registry:register adds one"
        raise UnknownVersionError(message)
    return latest


def list_rows(session: Session, name: str | None = None) -> Sequence[VersionRow]:
    """Return the versions of a name, or of all, by name and number."""
    statement = (
        select(VersionRow)
        .join(VersionRow.model)
        .options(selectinload(VersionRow.model), selectinload(VersionRow.aliases))
        .order_by(ModelRow.name, VersionRow.number)
    )
    if name is not None:
        statement = statement.where(ModelRow.id == find_model(session, name).id)
    return session.scalars(statement).all()


def point(session: Session, row: VersionRow, alias: str) -> bool:
    """Let an alias point to a version; return whether it moved."""
    found = session.get(AliasRow, (row.model_id, alias))
    before = None if found is None else found.version.number
    if found is None:
        session.add(AliasRow(model_id=row.model_id, alias=alias, version_id=row.id))
    elif found.version_id == row.id:
        return False
    else:
        found.version = row
    note(session, row.model_id, alias, before, row.number)
    return True


def note(session: Session, model_id: int, alias: str, before: int | None, after: int | None) -> None:
    """Add to the history of an alias."""
    change = AliasChangeRow(model_id=model_id, alias=alias, before=before, after=after, time=now())
    session.add(change)


def describe(row: VersionRow, workspace: Workspace) -> ModelVersion:
    """Return what a row tells."""
    return ModelVersion(
        name=row.model.name,
        number=row.number,
        kind=cast("Kind", row.kind),
        # Absolute ones stay what they are.
        path=workspace.path / row.path,
        fingerprint=row.fingerprint,
        size_bytes=row.size_bytes,
        files=row.files,
        parent=row.parent,
        base=row.base,
        data_fingerprint=row.data_fingerprint,
        metrics=row.metrics,
        settings=row.settings,
        tags=row.tags,
        description=row.description,
        created=row.created,
        aliases=tuple(sorted(each.alias for each in row.aliases)),
    )
