"""Commands about registered models, one file each."""
