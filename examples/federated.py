"""Adapt the embedded model to the rows of eight clients, and compare with training in one place, and alone.

uv run --extra federated python examples/federated.py
"""

import efficientai_toolkit as eat
from efficientai_toolkit.callbacks import ProgressBar

# Your own: eat.federated.run(model_path="folder or org/name", data="folder with train.jsonl", clients=4)
result = eat.federated.run(clients=8, rounds=4, callback=ProgressBar())
compared = result.comparison
if compared is not None:
    print(f"before     {compared.before:7.1f}")
    print(f"federated  {compared.federated:7.1f}")
    print(f"central    {compared.central:7.1f}")
    print(f"alone      {compared.local_mean:7.1f}")

# Clients that attack: the mean of their updates, and a rule that bears them.
for rule in ("fedavg", "multi_krum"):
    found = eat.federated.simulate(
        modes=["synchronous"],
        clients=10,
        attack="sign_flip",
        attackers=2,
        attack_scale=4.0,
        rule=rule,
        malicious=2,
    )
    print(f"{rule:11} accuracy under attack {found['synchronous'][-1].metrics['accuracy']:.1%}")
