"""``python -m efficientai_toolkit``: the command line."""

from efficientai_toolkit_launcher import main

if __name__ == "__main__":
    raise SystemExit(main())
