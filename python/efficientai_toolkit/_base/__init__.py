"""What every part of the package stands on: configurations, files, optional libraries, bundled data."""
