"""What can go wrong, by what mends it.

Every message names the file, line or key at fault and what would be right. The engine
raises these same classes. Where Python has a fitting built-in, a class is also one of
those, so that ``except ValueError`` keeps working.
"""


class ToolkitError(Exception):
    """Anything this package raises on purpose."""


class ConfigError(ToolkitError, ValueError):
    """A setting is unknown or impossible: change the configuration."""


class DatasetError(ToolkitError, ValueError):
    """The data cannot be read or holds nothing to train on: change the data."""


class HardwareCompatibilityError(ToolkitError, RuntimeError):
    """The device cannot do this: use another one or a smaller job."""


class DependencyError(ToolkitError, ImportError):
    """An installed library is missing or of the wrong version: reinstall it."""


class ModelLoadingError(ToolkitError, ValueError):
    """A checkpoint, tokenizer or adapter cannot be found or read."""


class TrainingError(ToolkitError, RuntimeError):
    """Training could not go on; the last checkpoint is intact."""


class DeploymentError(ToolkitError, RuntimeError):
    """A model could not be exported or served."""
