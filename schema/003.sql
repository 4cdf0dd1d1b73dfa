-- Format version 3: integer keys that stay on their replica, references to them, what held rows wait for, renamed columns.

-- The rows of tables whose integer key is local: the integer here, and the entity id everywhere.
CREATE TABLE ZV_LOCAL (
	table_no INTEGER NOT NULL,
	local INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	PRIMARY KEY (table_no, local)
) WITHOUT ROWID;
CREATE UNIQUE INDEX ZV_LOCAL_BY_ENTITY ON ZV_LOCAL (table_no, entity_id);

-- Columns that hold a local integer key of another table's: they travel as that row's entity id.
CREATE TABLE ZV_REFERENCE (
	table_no INTEGER NOT NULL,
	column_no INTEGER NOT NULL,
	parent_no INTEGER NOT NULL,
	PRIMARY KEY (table_no, column_no)
) WITHOUT ROWID;

-- Own writes of references to rows that were not there: left out of the log until they can be translated. Where
-- column_no is NULL the reference is part of the key, and `entity_id` is the row's key as it stands in the table.
CREATE TABLE ZV_UNTRANSLATED (
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	column_no INTEGER
);
CREATE UNIQUE INDEX ZV_UNTRANSLATED_ONCE ON ZV_UNTRANSLATED (table_no, entity_id, ifnull(column_no, 0));

-- Local integers that rows gave up here since the last merge, in that order: the rows were deleted, or got another
-- integer. The merge looks for rows that still refer to them.
CREATE TABLE ZV_FREED (
	no INTEGER PRIMARY KEY,
	table_no INTEGER NOT NULL,
	local INTEGER NOT NULL,
	entity_id TEXT NOT NULL
);
CREATE INDEX ZV_FREED_BY_LOCAL ON ZV_FREED (table_no, local);

-- Which row's fate decides over a row that is held, or shown without a reference: when `on_entity` changes (any row of
-- `on_table` where it is empty, one that has certain values where it begins with a NUL), the merge looks at the row again.
CREATE TABLE ZV_WAIT (
	on_table INTEGER NOT NULL,
	on_entity TEXT NOT NULL,
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	PRIMARY KEY (on_table, on_entity, table_no, entity_id)
) WITHOUT ROWID;
CREATE INDEX ZV_WAIT_BY_ROW ON ZV_WAIT (table_no, entity_id);

-- The unique values that living rows claim while their table does not show them.
CREATE TABLE ZV_CLAIM (
	table_no INTEGER NOT NULL,
	rule TEXT NOT NULL,
	value BLOB NOT NULL,
	entity_id TEXT NOT NULL,
	PRIMARY KEY (table_no, rule, value, entity_id)
) WITHOUT ROWID;
CREATE INDEX ZV_CLAIM_BY_ROW ON ZV_CLAIM (table_no, entity_id);

-- Held rows were tried at each merge until now; they are looked at once more, and what they wait for is recorded.
INSERT OR IGNORE INTO ZV_TOUCHED (table_no, entity_id) SELECT table_no, entity_id FROM ZV_HELD;

-- The log's name of the table; the integer key that stays here; the log's names of the columns, where they differ.
ALTER TABLE ZV_SOURCE ADD COLUMN entity_type TEXT NOT NULL DEFAULT '';
ALTER TABLE ZV_SOURCE ADD COLUMN local_key TEXT NOT NULL DEFAULT '';
ALTER TABLE ZV_SOURCE ADD COLUMN renamed TEXT NOT NULL DEFAULT '{}';
UPDATE ZV_SOURCE SET entity_type = name;

-- The columns that the table had when its capture was lifted for a change of its schema; none otherwise.
ALTER TABLE ZV_TRACKED ADD COLUMN altering TEXT NOT NULL DEFAULT '[]';
