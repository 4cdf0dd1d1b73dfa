-- Encrypted remotes: whether one is, and what is known of its keys. Nothing here opens anything without the secret.

-- NULL until it is known. What was met by a version that knew no encryption is not encrypted.
ALTER TABLE ZV_REMOTE ADD COLUMN encrypted INTEGER;
UPDATE ZV_REMOTE SET encrypted = 0 WHERE last_sync_ms > 0;

-- The epochs of a remote's keys: a fingerprint of each, so that nobody slips in another key, and the key files as they lie on
-- the remote, locked, so that one which is lost there can be put back.
CREATE TABLE ZV_EPOCH (
	remote_no INTEGER NOT NULL,
	epoch BLOB NOT NULL,
	fingerprint BLOB NOT NULL,
	file BLOB,
	PRIMARY KEY (remote_no, epoch)
) WITHOUT ROWID;

-- The epoch under which a pack is sealed: compaction moves what is sealed under an older one to the current one.
ALTER TABLE ZV_PACK ADD COLUMN epoch BLOB;
