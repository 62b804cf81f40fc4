"""Exceptions.

Messages name the file, line or key at fault and the expected value. The engine raises the same classes.
Each class also derives from the matching built-in exception, such as ``ValueError``.
"""


class ToolkitError(Exception):
    """Base class of all exceptions of this package."""


class ConfigError(ToolkitError, ValueError):
    """A setting is unknown or invalid."""


class DatasetError(ToolkitError, ValueError):
    """The data cannot be read or contain nothing to train on."""


class HardwareCompatibilityError(ToolkitError, RuntimeError):
    """The device does not support the operation or has too little memory."""


class DependencyError(ToolkitError, ImportError):
    """A dependency is missing or has the wrong version."""


class ModelLoadingError(ToolkitError, ValueError):
    """A checkpoint, tokenizer or adapter cannot be found or read."""


class TrainingError(ToolkitError, RuntimeError):
    """Training cannot continue; the last checkpoint is intact."""


class DeploymentError(ToolkitError, RuntimeError):
    """A model cannot be exported or served."""
