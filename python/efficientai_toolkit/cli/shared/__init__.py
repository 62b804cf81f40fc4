"""What the commands of several namespaces have in common."""
