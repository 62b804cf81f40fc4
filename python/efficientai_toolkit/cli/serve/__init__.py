"""Commands about a running server, one file each."""
