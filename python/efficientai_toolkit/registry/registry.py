"""The registry of a workspace."""

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.registry.comparison import Comparison, compare_versions
from efficientai_toolkit.registry.content import detect_kind, read_content
from efficientai_toolkit.registry.description import check_metrics, check_tags, check_text
from efficientai_toolkit.registry.names import (
    PRODUCTION,
    Reference,
    UnknownVersionError,
    check_name,
    parse_reference,
)
from efficientai_toolkit.registry.paths import locate, make_absolute
from efficientai_toolkit.registry.promotion import check_better, verify
from efficientai_toolkit.registry.queries import (
    describe,
    find_model,
    find_version,
    list_rows,
    note,
    now,
    point,
)
from efficientai_toolkit.registry.record import read_record
from efficientai_toolkit.registry.removal import check_deletable, check_unneeded, delete_folder
from efficientai_toolkit.registry.tables import (
    AliasChangeRow,
    AliasRow,
    ModelRow,
    VersionRow,
    create_tables,
)
from efficientai_toolkit.registry.version import AliasChange, Kind, ModelVersion, RegisteredModel
from efficientai_toolkit.workspace.database import READ_ONLY, explained
from efficientai_toolkit.workspace.folder import WORKSPACE, Workspace


class Registry:
    """Registered models of a workspace.

    Several processes may use it at once.

    >>> registry = Registry("workspace")  # doctest: +SKIP
    >>> registry.register("chat", "workspace/runs/lora-0003", aliases=["candidate"])  # doctest: +SKIP
    >>> registry.promote("chat@candidate", if_lower="perplexity_after")  # doctest: +SKIP
    >>> registry.get("chat").path  # doctest: +SKIP

    Parameters
    ----------
    workspace
        Workspace, or its folder, which is created if it does not exist.

    Raises
    ------
    ConfigError
        If the folder or the database in it cannot be used; methods raise it too, and if a name is none, or
        unknown.
    """

    def __init__(self, workspace: Workspace | str | os.PathLike[str] = WORKSPACE) -> None:
        self.workspace = workspace if isinstance(workspace, Workspace) else Workspace(os.fspath(workspace))
        self._watching: Any = None
        """Connection that never writes, for :meth:`read_state`."""
        with explained(self.workspace.path):
            create_tables(self.workspace.database)

    def register(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        kind: Kind | None = None,
        parent: str | None = None,
        base: str | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        aliases: Iterable[str] = (),
        outside: bool = False,
    ) -> ModelVersion:
        """Add the next version of a model; the files stay where they are.

        Settings, metrics, the fingerprint of the data and the base model are read from what the run wrote
        into its folder.

        Parameters
        ----------
        name
            Name, new or known.
        path
            Folder, relative to the current one or to the workspace.
        kind
            What it has (default: told by its files).
        parent
            Version that it was made from (default: the one whose folder the run began with).
        base
            Folder or hub id of its base model (default: as the run or the adapter's configuration tells).
        metrics
            Further metrics, which win over those of the run.
        tags, description
            For people.
        aliases
            Aliases to point to it, in the same transaction.
        outside
            Whether the folder may lie outside of the workspace.

        Returns
        -------
        ModelVersion

        Raises
        ------
        ConfigError
            If a name is none, the folder has no model, adapter or checkpoint or is not in the workspace, or
            what the run wrote is damaged. Nothing is registered then.
        """
        check_name(name, "a model")
        pointed = [check_name(alias, "an alias") for alias in aliases]
        folder, stored = locate(self.workspace, path, outside=outside)
        kind = detect_kind(folder, kind)
        content = read_content(folder, kind, within=None if outside else self.workspace.path)
        record = read_record(folder, kind)
        base = make_absolute(base or record.base)
        values = {
            "kind": kind,
            "path": stored,
            "fingerprint": content.fingerprint,
            "size_bytes": content.size_bytes,
            "files": content.files,
            "data_fingerprint": record.data,
            "metrics": record.metrics | check_metrics(metrics or {}),
            "settings": record.settings,
            "tags": check_tags(tags or {}),
            "description": check_text(description, "`description`"),
            "created": now(),
        }
        with self._writing() as session:
            origin = self._find_parent(session, parent, base)
            model = session.scalar(select(ModelRow).where(ModelRow.name == name))
            if model is None:
                model = ModelRow(name=name, last_number=0)
                session.add(model)
            model.last_number += 1
            row = VersionRow(
                **values,
                model=model,
                number=model.last_number,
                parent=None if origin is None else f"{origin.model.name}/{origin.number}",
                base=base,
            )
            session.add(row)
            session.flush()
            for alias in pointed:
                point(session, row, alias)
            session.flush()
            session.refresh(row)
            return describe(row, self.workspace)

    def get(self, reference: str) -> ModelVersion:
        """Return a version.

        Parameters
        ----------
        reference
            ``NAME`` (its production version, or the latest if it has none), ``NAME@ALIAS`` or
            ``NAME/NUMBER``.
        """
        with self._reading() as session:
            return describe(find_version(session, parse_reference(reference)), self.workspace)

    def read_state(self) -> int:
        """Return a number that is another one after each change of the database, by anybody.

        It takes microseconds, unlike :meth:`get`. Call it in one thread only.
        """
        with explained(self.workspace.path):
            if self._watching is None:
                self._watching = self.workspace.database.raw_connection()
            return int(self._watching.cursor().execute("PRAGMA data_version").fetchone()[0])

    def list_models(self) -> list[RegisteredModel]:
        """Return the names that have versions, sorted."""
        models: dict[str, list[ModelVersion]] = {}
        for version in self.list_versions():
            models.setdefault(version.name, []).append(version)
        return [
            RegisteredModel(
                name=name,
                versions=tuple(version.number for version in versions),
                aliases={alias: version.number for version in versions for alias in version.aliases},
            )
            for name, versions in models.items()
        ]

    def list_versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return the versions of a model, or of all, by name and number."""
        with self._reading() as session:
            return [describe(row, self.workspace) for row in list_rows(session, name)]

    def list_changes(self, name: str) -> list[AliasChange]:
        """Return the history of the aliases of a model, the oldest move first."""
        with self._reading() as session:
            rows = session.scalars(
                select(AliasChangeRow)
                .where(AliasChangeRow.model_id == find_model(session, name).id)
                .order_by(AliasChangeRow.id)
            )
            return [
                AliasChange(alias=row.alias, before=row.before, after=row.after, time=row.time)
                for row in rows
            ]

    def lineage(self, reference: str) -> list[ModelVersion]:
        """Return a version, the one it was made from, and so on, as far as they are registered."""
        found: list[ModelVersion] = []
        with self._reading() as session:
            row: VersionRow | None = find_version(session, parse_reference(reference))
            while row is not None:
                found.append(describe(row, self.workspace))
                row = None if row.parent is None else self._find(session, row.parent)
        return found

    def compare(self, *references: str) -> Comparison:
        """Return metrics, sizes and the settings that differ of two or more versions."""
        if len(references) < 2:  # noqa: PLR2004
            message = "a comparison needs two versions or more"
            raise ConfigError(message)
        return compare_versions([self.get(reference) for reference in references])

    def verify(self, version: ModelVersion) -> None:
        """Check that the files of a version are those that were registered.

        Raises
        ------
        DeploymentError
            If they are missing or changed.
        """
        verify(version)

    def promote(
        self,
        name: str,
        version: int | None = None,
        alias: str = PRODUCTION,
        *,
        if_lower: str | None = None,
        if_higher: str | None = None,
    ) -> ModelVersion:
        """Let an alias point to a version.

        Parameters
        ----------
        name
            Name, or a whole reference such as ``NAME@candidate`` if ``version`` is not given.
        version
            Number.
        alias
            Alias, new or known.
        if_lower, if_higher
            Metric that has to be lower, or higher, than that of the version the alias points to now. The
            first version of an alias needs no metric.

        Raises
        ------
        DeploymentError
            If files are missing or changed, or the metric is no better; the alias then stays where it is.
        """
        reference = parse_reference(name if version is None else f"{name}/{version}")
        if reference.alias is None and reference.number is None:
            message = f"tell the version of {name}: NAME/NUMBER or NAME@ALIAS"
            raise ConfigError(message)
        check_name(alias, "an alias")
        with self._reading() as session:
            found = describe(find_version(session, reference), self.workspace)
        # Takes long: others may write meanwhile.
        verify(found)
        with self._writing() as session:
            row = find_version(session, Reference(name=found.name, number=found.number))
            current = session.get(AliasRow, (row.model_id, alias))
            if current is not None and current.version_id != row.id:
                before = describe(current.version, self.workspace)
                check_better(found, before, if_lower, if_higher)
            point(session, row, alias)
            session.flush()
            session.refresh(row)
            return describe(row, self.workspace)

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""
        with self._writing() as session:
            row = find_version(session, parse_reference(f"{name}@{alias}"))
            session.delete(session.get_one(AliasRow, (row.model_id, alias)))
            note(session, row.model_id, alias, row.number, None)

    def remove(self, reference: str, *, force: bool = False, delete_files: bool = False) -> ModelVersion:
        """Remove a version.

        Parameters
        ----------
        reference
            ``NAME/NUMBER``: an alias might have moved.
        force
            Also if an alias points to it, which goes too, or if other versions were made from it.
        delete_files
            Also delete its folder, with all that is in it.

        Raises
        ------
        DeploymentError
            If it is in use and ``force`` is not given, or the folder is not in the workspace or has other
            versions, too. Nothing is removed then.
        """
        parsed = parse_reference(reference)
        if parsed.number is None:
            message = f"tell the version of {parsed.name} to remove by its number: {parsed.name}/NUMBER"
            raise ConfigError(message)
        with self._writing() as session:
            row = find_version(session, parsed)
            version = describe(row, self.workspace)
            if not force:
                check_unneeded(session, version)
            if delete_files:
                check_deletable(session, version, self.workspace)
            for alias in version.aliases:
                session.delete(session.get_one(AliasRow, (row.model_id, alias)))
                note(session, row.model_id, alias, row.number, None)
            session.flush()
            session.delete(row)
        if delete_files:
            delete_folder(version)
        return version

    def _find_parent(self, session: Session, parent: str | None, base: str | None) -> VersionRow | None:
        if parent is not None:
            return find_version(session, parse_reference(parent))
        if base is None or not Path(base).is_absolute():
            return None
        folder = Path(base)
        is_inside = folder.is_relative_to(self.workspace.path)
        stored = self.workspace.relative(folder) if is_inside else base
        return session.scalar(
            select(VersionRow).where(VersionRow.path == stored).order_by(VersionRow.id.desc()).limit(1)
        )

    def _find(self, session: Session, reference: str) -> VersionRow | None:
        try:
            return find_version(session, parse_reference(reference))
        except UnknownVersionError:
            # It was removed.
            return None

    @contextmanager
    def _reading(self) -> Generator[Session]:
        engine = self.workspace.database.execution_options(**{READ_ONLY: True})
        with explained(self.workspace.path), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self) -> Generator[Session]:
        with explained(self.workspace.path), Session(self.workspace.database) as session, session.begin():
            yield session
