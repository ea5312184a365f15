"""The tables of the index, as one script. Rows can be made anew from the sidecars, except leases,
pins and proofs.

Private scope is a principal (keyed hash); the empty string in ``blob_access`` and ``principal`` columns stands for
everybody, because NULL is equal to nothing in SQL.
"""

from __future__ import annotations

SCHEMA_VERSION = 3
APPLICATION_ID = 0x66746368
"""``ftch``: file(1) and a curious person see whose database this is."""

SCHEMA = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    uri TEXT NOT NULL,
    revision TEXT,
    endpoint TEXT NOT NULL,
    manifest_digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    verified_by TEXT NOT NULL,
    private INTEGER NOT NULL,
    principal TEXT,
    downloaded_at REAL NOT NULL,
    validated_at REAL NOT NULL,
    last_used_at REAL NOT NULL,
    fresh_until REAL,
    keep_until REAL NOT NULL,
    keep_for_s REAL NOT NULL
);
CREATE INDEX snapshots_by_key ON snapshots (key, private, principal);
CREATE INDEX snapshots_by_end ON snapshots (keep_until);

CREATE TABLE snapshot_blobs (
    snapshot_id TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    root TEXT NOT NULL,
    PRIMARY KEY (snapshot_id, root)
) WITHOUT ROWID;
CREATE INDEX snapshot_blobs_by_root ON snapshot_blobs (root);

CREATE TABLE blobs (
    root TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    used_at REAL NOT NULL
);

CREATE TABLE blob_digests (
    algorithm TEXT NOT NULL,
    hex TEXT NOT NULL,
    root TEXT NOT NULL REFERENCES blobs (root) ON DELETE CASCADE,
    PRIMARY KEY (algorithm, hex, root)
) WITHOUT ROWID;
CREATE INDEX blob_digests_by_root ON blob_digests (root);

CREATE TABLE blob_access (
    root TEXT NOT NULL REFERENCES blobs (root) ON DELETE CASCADE,
    principal TEXT NOT NULL,
    PRIMARY KEY (root, principal)
) WITHOUT ROWID;

CREATE TABLE blob_holds (
    root TEXT NOT NULL REFERENCES blobs (root) ON DELETE CASCADE,
    owner_id TEXT NOT NULL,
    PRIMARY KEY (root, owner_id)
) WITHOUT ROWID;
CREATE INDEX blob_holds_by_owner ON blob_holds (owner_id);

CREATE TABLE contents (
    content_id TEXT PRIMARY KEY,
    root TEXT NOT NULL REFERENCES blobs (root) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX contents_by_root ON contents (root);

CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('timed', 'process')),
    created_at REAL NOT NULL,
    expires_at REAL,
    ends_boot_s REAL,
    boot_id TEXT NOT NULL,
    owner_id TEXT,
    owner_pid INTEGER,
    owner_pid_birth TEXT
);

CREATE TABLE lease_snapshots (
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    snapshot_id TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    PRIMARY KEY (lease_id, snapshot_id)
) WITHOUT ROWID;
CREATE INDEX lease_snapshots_by_snapshot ON lease_snapshots (snapshot_id);

CREATE TABLE pins (
    name TEXT NOT NULL,
    resource_key TEXT NOT NULL,
    created_at REAL NOT NULL,
    principal TEXT,
    PRIMARY KEY (name, resource_key)
) WITHOUT ROWID;
CREATE INDEX pins_by_key ON pins (resource_key);

CREATE TABLE flights (
    content_id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    bytes_proven INTEGER NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    ahead_bytes INTEGER NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE proofs (
    mark TEXT PRIMARY KEY,
    snapshot_id TEXT NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    ends_at REAL NOT NULL,
    ends_boot_s REAL NOT NULL,
    boot_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX proofs_by_snapshot ON proofs (snapshot_id);
"""
