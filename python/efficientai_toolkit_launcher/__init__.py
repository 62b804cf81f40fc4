"""Starts the command line, or says in one line why the package cannot be loaded.

It stands outside of `efficientai_toolkit` because importing that loads MLX and the engine.
"""

import json
import sys


def main() -> int:
    """Run the command line with the arguments of the process.

    Returns
    -------
    int
        The exit code; 2 when MLX or the engine is missing or of the wrong version.
    """
    try:
        from efficientai_toolkit.cli import main as run
    except ImportError as error:
        message = " ".join(str(error).split())
        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": type(error).__name__, "message": message}) + "\n")
        sys.stderr.write(f"error: {message}\n")
        return 2
    return run()
