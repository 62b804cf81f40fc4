"""What stands against the removal of a version, and of its files."""

import shutil

from sqlalchemy import select
from sqlalchemy.orm import Session

from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.registry.queries import list_rows
from efficientai_toolkit.registry.tables import VersionRow
from efficientai_toolkit.registry.version import ModelVersion
from efficientai_toolkit.workspace.folder import Workspace


def check_unneeded(session: Session, version: ModelVersion) -> None:
    """Check that no alias points to a version, and that none was made from it.

    Raises
    ------
    DeploymentError
        If not.
    """
    if version.aliases:
        message = f"{version.reference} is {', '.join(version.aliases)}; promote another one first"
        raise DeploymentError(message)
    child = session.scalar(select(VersionRow).where(VersionRow.parent == version.reference).limit(1))
    if child is not None:
        message = f"{child.model.name}/{child.number} was made from {version.reference}; remove it first"
        raise DeploymentError(message)


def check_deletable(session: Session, version: ModelVersion, workspace: Workspace) -> None:
    """Check that the folder of a version lies in the workspace and has no other one.

    Raises
    ------
    DeploymentError
        If not.
    """
    folder = version.path
    kept = {workspace.path, workspace.data, workspace.runs}
    if folder != folder.resolve() or not folder.is_relative_to(workspace.path) or folder in kept:
        message = f"{folder} is no folder of its own in the workspace, so its files are not deleted"
        raise DeploymentError(message)
    for row in list_rows(session):
        is_other = (row.model.name, row.number) != (version.name, version.number)
        if is_other and (workspace.path / row.path).is_relative_to(folder):
            message = f"{folder} has the files of {row.model.name}/{row.number}, too, so they are not deleted"
            raise DeploymentError(message)


def delete_folder(version: ModelVersion) -> None:
    """Delete the folder of a version that was removed.

    Raises
    ------
    DeploymentError
        If not all of it can be deleted.
    """
    try:
        if version.path.exists():
            shutil.rmtree(version.path)
    except OSError as error:
        message = f"{version.reference} is removed, but not all of {version.path}: {error}"
        raise DeploymentError(message) from error
