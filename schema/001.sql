-- Format version 1 of a replica's own tables. A released file is never edited: what changes comes in a file of its own.

-- The specification's three tables: the replica's facts, the log, and what each change wrote.
CREATE TABLE ZV_METADATA (
	key TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
);

CREATE TABLE ZV_CHANGE (
	id TEXT NOT NULL PRIMARY KEY,
	author_id TEXT NOT NULL,
	entity_type TEXT NOT NULL,
	entity_id TEXT NOT NULL,
	merged BOOL NOT NULL DEFAULT FALSE
) WITHOUT ROWID;

CREATE TABLE ZV_CHANGE_FIELD (
	change_id TEXT NOT NULL,
	field_name TEXT NOT NULL,
	field_value BLOB NOT NULL,
	PRIMARY KEY (change_id, field_name),
	FOREIGN KEY (change_id) REFERENCES ZV_CHANGE(id)
) WITHOUT ROWID;

-- One row for every insert into the log, in commit order. It drives push and merge. Change ids are their 16 bytes
-- here and in every table below; `own` says that the change was made here rather than pulled.
CREATE TABLE ZV_SEQUENCE (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	change_id BLOB NOT NULL,
	own INTEGER NOT NULL
);

-- Table and column names, ASCII lower case, by number. 0 is the reserved column zv_deleted.
CREATE TABLE ZV_NAME (
	no INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
);
INSERT INTO ZV_NAME (no, name) VALUES (0, 'zv_deleted');

-- For each entity the newest write of every column (packed: see model/register.rs) and whether its table shows it.
CREATE TABLE ZV_REGISTER (
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	shown INTEGER NOT NULL,
	registers BLOB NOT NULL,
	PRIMARY KEY (table_no, entity_id)
) WITHOUT ROWID;

-- Entities alive in the registers that their table cannot show, and why.
CREATE TABLE ZV_HELD (
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	reason TEXT NOT NULL,
	detail TEXT NOT NULL,
	PRIMARY KEY (table_no, entity_id)
) WITHOUT ROWID;

-- Entities that the next merge shows anew from their registers, though no change of theirs is new.
CREATE TABLE ZV_TOUCHED (
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	PRIMARY KEY (table_no, entity_id)
) WITHOUT ROWID;

-- Changes that name a table or a column that does not exist here; column_no is NULL where the table is what lacks.
CREATE TABLE ZV_PENDING (
	change_id BLOB NOT NULL,
	table_no INTEGER NOT NULL,
	column_no INTEGER
);
CREATE INDEX ZV_PENDING_BY_TABLE ON ZV_PENDING (table_no, column_no);
CREATE INDEX ZV_PENDING_BY_CHANGE ON ZV_PENDING (change_id);

-- Writes of one column that did not know of each other: which won here, which lost.
CREATE TABLE ZV_CONFLICT (
	no INTEGER PRIMARY KEY,
	table_no INTEGER NOT NULL,
	entity_id TEXT NOT NULL,
	column_no INTEGER NOT NULL,
	winner BLOB NOT NULL,
	loser BLOB NOT NULL,
	seen_ms INTEGER NOT NULL,
	restored INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX ZV_CONFLICT_ONCE ON ZV_CONFLICT (table_no, entity_id, column_no, winner, loser);

-- The tables under capture. `blocked` says why a table is neither merged nor pushed, or nothing. `source` is the newest row of ZV_SOURCE, whose columns the triggers append.
CREATE TABLE ZV_TRACKED (
	table_no INTEGER PRIMARY KEY,
	name TEXT NOT NULL,
	active INTEGER NOT NULL,
	source INTEGER NOT NULL,
	enforce_fk INTEGER NOT NULL,
	excluded TEXT NOT NULL,
	notice TEXT NOT NULL DEFAULT '',
	blocked TEXT NOT NULL DEFAULT ''
);

-- What a journal row's c0, c1, … mean: the key's columns, then the others. A row stays while journal rows may name it.
CREATE TABLE ZV_SOURCE (
	source INTEGER PRIMARY KEY AUTOINCREMENT,
	table_no INTEGER NOT NULL,
	name TEXT NOT NULL,
	key_kind TEXT NOT NULL,
	key_columns TEXT NOT NULL,
	columns TEXT NOT NULL
);

-- What the triggers append: the wall clock's milliseconds, the operation (1 insert, 2 update, 3 delete, 4 about to be
-- replaced), the columns that an update changed (NULL: all), the key and the values. `track` widens it as tables need.
CREATE TABLE ZV_JOURNAL (
	seq INTEGER PRIMARY KEY,
	ms INTEGER,
	source INTEGER,
	op INTEGER,
	mask,
	c0, c1, c2, c3, c4, c5, c6, c7
);

-- The numbers 0 to 255, by which a trigger walks the characters of a key.
CREATE TABLE ZV_BYTE (i INTEGER PRIMARY KEY);
INSERT INTO ZV_BYTE (i)
WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 255) SELECT i FROM n;

-- The remotes that this replica has met, and how far the log has been pushed there.
CREATE TABLE ZV_REMOTE (
	no INTEGER PRIMARY KEY,
	url TEXT NOT NULL UNIQUE,
	pushed_seq INTEGER NOT NULL DEFAULT 0,
	layout TEXT NOT NULL DEFAULT '',
	layout_id TEXT NOT NULL DEFAULT '',
	last_sync_ms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE ZV_IDENTITY (
	identity BLOB NOT NULL,
	remote_no INTEGER NOT NULL,
	PRIMARY KEY (identity, remote_no)
) WITHOUT ROWID;

-- Remote files that could not be read, remembered so that they are fetched again only when there is reason to.
CREATE TABLE ZV_REFUSED (
	remote_no INTEGER NOT NULL,
	name TEXT NOT NULL,
	size INTEGER NOT NULL,
	etag TEXT NOT NULL,
	reason TEXT NOT NULL,
	tries INTEGER NOT NULL,
	retry_ms INTEGER NOT NULL,
	PRIMARY KEY (remote_no, name)
) WITHOUT ROWID;

-- Changes seen on a remote whose time, by this machine's clock, is still to come.
CREATE TABLE ZV_WAITING (
	remote_no INTEGER NOT NULL,
	change_id BLOB NOT NULL,
	author_id TEXT NOT NULL,
	PRIMARY KEY (remote_no, change_id)
) WITHOUT ROWID;

-- Own changes that stay in the log: above the size that a remote file may have, or of a table that the remote knows by
-- another key.
CREATE TABLE ZV_KEPT (
	change_id BLOB NOT NULL PRIMARY KEY,
	seq INTEGER NOT NULL,
	table_no INTEGER NOT NULL,
	bytes INTEGER NOT NULL
) WITHOUT ROWID;

-- The table definitions that travel (schemas/ on the remotes), by their SHA-256.
CREATE TABLE ZV_DEFINITION (
	hash BLOB NOT NULL PRIMARY KEY,
	table_no INTEGER NOT NULL,
	version INTEGER NOT NULL,
	body BLOB NOT NULL
) WITHOUT ROWID;
