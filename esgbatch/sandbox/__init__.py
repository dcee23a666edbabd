"""The firm's neighbours in one process, for the demo, for training and for tests.

::

    data.py      the firm's accounts and scores, computed from a seed
    listing.py   the account system
    login.py     the OAuth2 token endpoint
    esg.py       the ESG API
    sftp.py      the drop
    mail.py      a mail sink
    pager.py     a PagerDuty sink
    control.py   what has been counted, and the faults that can be switched
    server.py    all of them on free loopback ports
    launch.py    the same as a child process

It speaks the wire only and imports nothing from the rest of the package, so that a
mistake of the client cannot cancel out against the same mistake here.
"""
