"""Secure aggregation: sums of updates that nobody sees singly."""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.federated.secure.fixed_point import FixedPoint
    from efficientai_toolkit.federated.secure.masks import combine, split
    from efficientai_toolkit.federated.secure.protocol import PublicKeys, SecureClient, unmask

__all__ = ["FixedPoint", "PublicKeys", "SecureClient", "combine", "split", "unmask"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "FixedPoint": "federated.secure.fixed_point:FixedPoint",
            "PublicKeys": "federated.secure.protocol:PublicKeys",
            "SecureClient": "federated.secure.protocol:SecureClient",
            "combine": "federated.secure.masks:combine",
            "split": "federated.secure.masks:split",
            "unmask": "federated.secure.protocol:unmask",
        },
    )
