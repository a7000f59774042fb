"""The SQLite index of the journal: ``schema.sql``, ``apply(event)``, and the questions the tree asks."""
