"""The command line: one thin file a family of commands. Nothing heavy is imported before it is used."""
