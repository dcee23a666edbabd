"""A crash at every step: the real process is struck at its N-th system call, then the night is completed.

`points` says where it can be struck, `site` is where one night after another takes place, `strike` does
it by `strace`, `oracle` compares what is left with an undisturbed night, `driver` tries the points.
`scripts/crashtest` runs all of them.
"""
