-- What columns that stay on this replica held of a row that lives and that its table does not show for now.
CREATE TABLE ZV_ASIDE (
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	name TEXT NOT NULL,
	value,
	PRIMARY KEY (table_no, entity_id, name)
) WITHOUT ROWID;
