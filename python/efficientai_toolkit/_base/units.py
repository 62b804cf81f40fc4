"""Sizes and durations as text."""

_MB = 10**6
_GB = 10**9


def format_size(size: float) -> str:
    """Format bytes in MB, or in GB from 10⁹."""
    if size >= _GB:
        return f"{size / _GB:.2f} GB"
    return f"{size / _MB:.0f} MB" if size >= 10 * _MB else f"{size / _MB:.1f} MB"


def format_duration(secs: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
