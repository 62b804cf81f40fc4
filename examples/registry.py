"""Train twice, register both adapters, and let the better one into production.

uv run python examples/registry.py
"""

from efficientai_toolkit import lora
from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.registry import Registry

registry = Registry("workspace")
for iters in (20, 5):
    config = lora.TrainingConfig(iters=iters, output=str(lora.new_run(registry.workspace.runs)))
    result = lora.MLXTrainer(config).train()
    version = registry.register("pirate", result.adapter_path, aliases=["candidate"])
    try:
        registry.promote(version.reference, if_lower="perplexity_after")
    except DeploymentError as error:
        print(error)

print(registry.get("pirate").reference, "is in production")
print(registry.compare(*(version.reference for version in registry.list_versions("pirate"))))
