"""The seed of what the comparisons with peers at hand draw: ``PARITY_SEED``, or another one each time."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("PARITY_SEED") or random.SystemRandom().randrange(10**6))
