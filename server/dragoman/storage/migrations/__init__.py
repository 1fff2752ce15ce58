"""The schema's history, as Alembic revisions. See `dragoman.storage.migrate`."""
