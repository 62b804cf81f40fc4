"""One run of a comparison, in a process of its own so that its peak of memory is its own.

``python -m efficientai_toolkit.study.job CONFIG.json`` writes the events of the run to
standard output, one JSON object per line, then the result or the error.
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from efficientai_toolkit.callbacks.base import JsonLines
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.lora.comparison.measurement import measure
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.trainer import MLXTrainer


def main(path: str) -> int:
    """Train as the file says; the exit code is 0 also when the run fails in an orderly way."""
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    config = TrainingConfig(**request["config"])
    try:
        result = MLXTrainer(config, callback=JsonLines(sys.stdout)).train()
        outcome = {"event": "result", **asdict(measure(request["method"], config.lr, result, _peak()))}
    except ToolkitError as error:
        outcome = {"event": "error", "message": " ".join(str(error).split())}
    except KeyboardInterrupt:
        # The parent was interrupted too, and says so.
        return 130
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 0


def _peak() -> int:
    """Most bytes this process has held."""
    if sys.platform == "linux":
        # What getrusage tells begins with the peak of the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
