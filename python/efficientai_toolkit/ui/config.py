"""Configuration of the page."""

from dataclasses import dataclass

from efficientai_toolkit._base.config import setting
from efficientai_toolkit._base.units import parse_size
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.workspace.folder import WORKSPACE


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PageConfig(ServeConfig):
    """Configuration of the page, and of the server that it runs on."""

    port: int = setting(7860, "port; 0: any free one")
    workspace: str | None = setting(
        WORKSPACE, "folder with data, runs and the database of jobs and registered models"
    )
    allow_downloads: bool = setting(True, "let models of the hub be downloaded when somebody asks for one")
    max_upload: str = setting("1GB", "largest file that is uploaded")

    def check(self) -> None:
        """Validate as the server does; a page always has a workspace."""
        ServeConfig.check(self)
        parse_size("max_upload", self.max_upload)
        if self.workspace is None:
            message = "`workspace` is missing: the page keeps data and runs in it"
            raise ConfigError(message)

    @property
    def max_upload_bytes(self) -> int:
        """``max_upload`` in bytes."""
        return parse_size("max_upload", self.max_upload)
