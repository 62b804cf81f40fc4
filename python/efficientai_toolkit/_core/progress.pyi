"""
Events of long-running work.
"""

__all__ = ["events"]

def events() -> str:
    """
    Every event that an observer may receive, as JSON: its ``name`` and its ``fields``.

    A field has a ``name``, a ``kind`` (``int``, ``float`` or ``str``) and may be ``optional``.
    """
