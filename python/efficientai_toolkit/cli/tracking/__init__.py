"""Commands about runs, one file each."""
