"""When to ask: one loop, `dispatcher.py`, that owns rate, retries, outages, concurrency and time."""
