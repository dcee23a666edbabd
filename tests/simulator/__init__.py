"""Nights in simulated time: the real job, in a world whose troubles are drawn from a seed.

`plan` draws a night, `world` is its time, signals and kills, `api` and `firm` are the
servers around the job, `night` lives through it as an operator would, `invariants` says
what must hold, and `campaign` does this many times.
"""
