"""The command line: `commands` say what can be typed, `actions` do it."""
