"""What was deployed, so that a server that starts again serves it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sqlalchemy import Table, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from efficientai_toolkit.workspace.database import Base, explained
from efficientai_toolkit.workspace.folder import Workspace

log = logging.getLogger(__package__)


class DeploymentRow(Base):
    """The last deployment under a served name."""

    __tablename__ = "deployments"

    name: Mapped[str] = mapped_column(primary_key=True)
    configured: Mapped[str]
    """What the command line named then; another one replaces the deployment."""
    path: Mapped[str]
    previous: Mapped[str | None]


class Deployments:
    """Record in the database of a workspace.

    Parameters
    ----------
    workspace
        Workspace.
    configured
        What the configuration names for each served name.
    """

    def __init__(self, workspace: Workspace, configured: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._configured = dict(configured)
        with explained(workspace.path):
            Base.metadata.create_all(workspace.database, tables=[cast("Table", DeploymentRow.__table__)])

    def restore(self) -> dict[str, tuple[Path, Path | None]]:
        """Return the folder, and the one before, of each name whose deployment still holds."""
        found: dict[str, tuple[Path, Path | None]] = {}
        with Session(self._workspace.database) as session:
            for row in session.scalars(select(DeploymentRow)):
                if self._configured.get(row.name) != row.configured:
                    continue
                if not Path(row.path).exists():
                    log.warning(
                        "%s was served from %s, which is gone; serving what the configuration names",
                        row.name,
                        row.path,
                    )
                    continue
                log.info("%s is served from %s, as it was deployed", row.name, row.path)
                found[row.name] = Path(row.path), None if row.previous is None else Path(row.previous)
        return found

    def record(self, name: str, path: Path, previous: Path) -> None:
        """Note a deployment."""
        row = DeploymentRow(
            name=name, configured=self._configured[name], path=str(path), previous=str(previous)
        )
        with explained(self._workspace.path), Session(self._workspace.database) as session, session.begin():
            session.merge(row)
