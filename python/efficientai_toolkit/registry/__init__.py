"""Registry of models: versions of what training made, and aliases such as ``production`` that point to them.

::

    registry ─ tables (SQLAlchemy, in the workspace's database)
      │  ├──── content: which files a version has, and their fingerprint
      │  └──── record: what the run wrote about itself (settings, metrics, data)
      └─ names: NAME, NAME@ALIAS, NAME/NUMBER
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit.registry.comparison import Comparison
    from efficientai_toolkit.registry.registry import Registry
    from efficientai_toolkit.registry.version import AliasChange, ModelVersion, RegisteredModel

__all__ = ["AliasChange", "Comparison", "ModelVersion", "RegisteredModel", "Registry"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "AliasChange": "registry.version:AliasChange",
            "Comparison": "registry.comparison:Comparison",
            "ModelVersion": "registry.version:ModelVersion",
            "RegisteredModel": "registry.version:RegisteredModel",
            "Registry": "registry.registry:Registry",
        },
    )
