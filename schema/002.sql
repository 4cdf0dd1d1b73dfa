-- Format version 2: what is remembered of each remote, so that a listing alone says what has changed there.

-- The packs that were looked into. `ids` are those of its changes, as its header has them, `first` and `last` the least and
-- the greatest of them, `raw` the bytes of its records; `complete` says that the log holds them all; `seen_ms` is when this
-- replica wrote or first saw it. `covered_ms` is when the last of the packs of greater names was seen that together hold all
-- of its changes: 0 where there are none, -1 where that is still to be found out.
CREATE TABLE ZV_PACK (
	remote_no INTEGER NOT NULL,
	pack BLOB NOT NULL,
	size INTEGER NOT NULL,
	changes INTEGER NOT NULL,
	raw INTEGER NOT NULL,
	first BLOB NOT NULL,
	last BLOB NOT NULL,
	complete INTEGER NOT NULL,
	seen_ms INTEGER NOT NULL,
	covered_ms INTEGER NOT NULL,
	ids BLOB NOT NULL
);
CREATE UNIQUE INDEX ZV_PACK_ONCE ON ZV_PACK (remote_no, pack);

-- The loose files there whose changes the log holds; `packed_ms` is when the first of the packs above that hold the change too
-- was seen, 0 where there is none.
CREATE TABLE ZV_LOOSE (
	remote_no INTEGER NOT NULL,
	change_id BLOB NOT NULL,
	packed_ms INTEGER NOT NULL,
	PRIMARY KEY (remote_no, change_id)
) WITHOUT ROWID;
INSERT INTO ZV_LOOSE (remote_no, change_id, packed_ms)
SELECT no, change_id, 0 FROM ZV_REMOTE JOIN ZV_SEQUENCE ON seq <= pushed_seq
WHERE change_id NOT IN (SELECT change_id FROM ZV_KEPT);

-- Changes that were there, and of which no object is left: the next push puts them back.
CREATE TABLE ZV_LOST (
	remote_no INTEGER NOT NULL,
	change_id BLOB NOT NULL,
	PRIMARY KEY (remote_no, change_id)
) WITHOUT ROWID;
