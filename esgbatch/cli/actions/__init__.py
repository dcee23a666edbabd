"""What the commands do: a file a command, or a few that belong together."""
