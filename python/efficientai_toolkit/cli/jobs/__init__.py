"""Commands about the jobs of a workspace, one file each."""
