"""From an older program's tables to this one's, a step a version, in one transaction."""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, Table, Text, insert, select, text, update

from esgbatch.checkpoint import tables, views
from esgbatch.checkpoint.vault import RunCipher, Vault

PAGE = 5000


def bring_up_to_date(connection: Connection, vault: Vault) -> bool:
    """Make the tables this program's; returns whether any plain name or score was replaced.

    Raises:
        ConfigError: the key for names and scores cannot be had.
    """
    version = schema_version(connection)
    if version >= tables.SCHEMA:
        return False
    if version < 2:
        connection.exec_driver_sql("alter table revisions add column histograms text")
    if version < 3:
        _encrypt(connection, vault)
    views.create(connection)
    connection.execute(update(tables.schema).values(version=tables.SCHEMA))
    return version < 3


def schema_version(connection: Connection) -> int:
    version: int = connection.execute(select(tables.schema.c.version)).scalar_one()
    return version


def _encrypt(connection: Connection, vault: Vault) -> None:
    """Version 3 keeps no name and no score in the clear."""
    connection.execute(text("alter table runs add column erased integer not null default 0"))
    connection.execute(text("alter table runs add column purged text"))
    connection.execute(text("alter table accounts rename to accounts_1"))
    tables.metadata.create_all(connection)
    for run in connection.scalars(select(tables.runs.c.number)).all():
        vault.begin(connection, run)
        _copy(connection, run, vault.cipher(connection, run))
    connection.execute(text("drop table accounts_1"))


# As much of the first version's table as is needed to read it.
_old = Table(
    "accounts_1",
    MetaData(),
    *(
        Column(column.name, Text if column.name in ("name", "scores") else column.type)
        for column in tables.accounts.columns
    ),
)


def _copy(connection: Connection, run: int, cipher: RunCipher) -> None:
    after = -1
    while True:
        page = (
            connection.execute(
                select(_old)
                .where(_old.c.run == run, _old.c.position > after)
                .order_by(_old.c.position)
                .limit(PAGE)
            )
            .mappings()
            .all()
        )
        if not page:
            return
        after = page[-1]["position"]
        names = cipher.seal_names([(row["position"], row["account_id"], row["name"]) for row in page])
        connection.execute(
            insert(tables.accounts),
            [
                {
                    **row,
                    "name": name,
                    "scores": row["scores"] and cipher.seal_scores(row["position"], row["scores"]),
                }
                for row, name in zip(page, names, strict=True)
            ],
        )
