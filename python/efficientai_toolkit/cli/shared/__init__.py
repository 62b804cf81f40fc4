"""Parts shared by the commands of several namespaces."""
