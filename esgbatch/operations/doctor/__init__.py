"""`doctor`: everything tomorrow's run needs, looked at today, with nothing left behind.

`examination` runs the checks beside each other; `folders`, `records`, `servers`, `keys`, `drop`
and `alarms` hold them, a function each; `hostkey` is `doctor --trust-host`.
"""
