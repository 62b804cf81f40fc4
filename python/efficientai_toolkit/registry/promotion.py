"""What a version has to be before an alias points to it."""

from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.registry.content import read_content
from efficientai_toolkit.registry.version import ModelVersion


def verify(version: ModelVersion) -> None:
    """Check that the files of a version are those that were registered.

    Raises
    ------
    DeploymentError
        If they are missing or changed.
    """
    try:
        content = read_content(version.path, version.kind)
    except ConfigError as error:
        message = f"{version.reference} cannot be used: {error}"
        raise DeploymentError(message) from error
    if content.fingerprint != version.fingerprint:
        message = (
            f"the files in {version.path} are not those that were registered as {version.reference}; "
            "register the folder again to get a new version"
        )
        raise DeploymentError(message)


def check_better(
    version: ModelVersion, before: ModelVersion, if_lower: str | None, if_higher: str | None
) -> None:
    """Check that metrics of a version are lower, or higher, than those of another one.

    Raises
    ------
    ConfigError
        If one of them does not have the metric.
    DeploymentError
        If it is no better.
    """
    for metric, word in ((if_lower, "lower"), (if_higher, "higher")):
        if metric is None:
            continue
        for each in (version, before):
            if metric not in each.metrics:
                known = ", ".join(sorted(each.metrics)) or "none"
                message = f"{each.reference} has no metric {metric!r}; it has {known}"
                raise ConfigError(message)
        new, old = version.metrics[metric], before.metrics[metric]
        if not (new < old if word == "lower" else new > old):
            message = (
                f"{version.reference} is not promoted: its {metric} of {new:g} is not {word} than the "
                f"{old:g} of {before.reference}"
            )
            raise DeploymentError(message)
