"""What can be typed: a file a family of commands, which imports nothing heavy before one of them is called."""
