"""What every test may use."""

pytest_plugins = ["support.figures"]
