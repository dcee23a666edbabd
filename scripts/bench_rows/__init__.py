"""The rows of `scripts/bench`.

::

    main.py       the command
    figures.py    what a row is, and what it comes to
    processes.py  a process and what it used
    site.py       the servers, the job and the peers
    quota.py      how much of the API's quota is used
    cpu.py        CPU and throughput against the peers
    size.py       a million accounts: memory, enrolment, resume, closing
    startup.py    the commands that people wait for
    prepare.py    a checkpoint in the middle of a night, by the program's own code
    table.py      the result for people, machines and docs/performance.md
"""
