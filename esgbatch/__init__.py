"""esgbatch: every active account of a firm, rated, in one encrypted file, before nine.

The way of the data, one folder a stage::

    accounts/    the firm's account system: who is to be rated
    fetching/    when to ask: rate limit, retries, outages, concurrency
    ratings/     what one answer of the ESG API means
    checkpoint/  every account's outcome, committed; every stage asks it what is left
    rows.py      outcome -> CSV row
    encryption/  CSV rows -> one sealed OpenPGP file, never plaintext on disk
    delivery/    sealed file and manifest -> the SFTP drop
    reporting/   what the day was like

`job.run_job` is that sentence as a function.
"""

__version__ = "1.0.0"
