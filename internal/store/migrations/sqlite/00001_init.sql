-- +goose Up
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Numbers that rise in commit order. Project '' is the whole database.
CREATE TABLE counters (
    project TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   INTEGER NOT NULL,
    PRIMARY KEY (project, name)
) STRICT;

CREATE TABLE runs (
    project     TEXT NOT NULL,
    id          TEXT NOT NULL,
    number      INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    service     TEXT NOT NULL,
    repository  TEXT NOT NULL,
    path        TEXT NOT NULL,
    ref         TEXT NOT NULL,
    "commit"    TEXT NOT NULL,
    "to"        TEXT NOT NULL,
    release     TEXT NOT NULL,
    phase       TEXT NOT NULL,
    live        INTEGER NOT NULL,
    definition  TEXT,
    state       TEXT,
    actor       TEXT NOT NULL,
    revision    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    wake_at     INTEGER,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until INTEGER,
    epoch       INTEGER NOT NULL DEFAULT 0,
    wakes       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, id)
) STRICT;
CREATE UNIQUE INDEX runs_number ON runs (project, number);
CREATE INDEX runs_service ON runs (project, service, number);
CREATE INDEX runs_live ON runs (project, number) WHERE live;
CREATE INDEX runs_wake ON runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_lease ON runs (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE rollouts (
    project     TEXT NOT NULL,
    id          TEXT NOT NULL,
    number      INTEGER NOT NULL,
    run         TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    release     TEXT NOT NULL,
    phase       TEXT NOT NULL,
    live        INTEGER NOT NULL,
    engine      INTEGER NOT NULL,
    plan        TEXT,
    state       TEXT,
    judge       TEXT,
    candidate   TEXT,
    restore     TEXT,
    set_id      TEXT,
    wave        INTEGER,
    revision    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    wake_at     INTEGER,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until INTEGER,
    epoch       INTEGER NOT NULL DEFAULT 0,
    wakes       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, id)
) STRICT;
CREATE UNIQUE INDEX rollouts_number ON rollouts (project, number);
CREATE UNIQUE INDEX rollouts_one_live ON rollouts (project, service, environment) WHERE live;
CREATE INDEX rollouts_key ON rollouts (project, service, environment, number);
CREATE INDEX rollouts_run ON rollouts (project, run, number);
CREATE INDEX rollouts_wake ON rollouts (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX rollouts_lease ON rollouts (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE environments (
    project     TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    current     TEXT,
    previous    TEXT,
    retire_at   INTEGER,
    settings    TEXT,
    revision    INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    wake_at     INTEGER,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until INTEGER,
    epoch       INTEGER NOT NULL DEFAULT 0,
    wakes       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, service, environment)
) STRICT;
CREATE INDEX environments_wake ON environments (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX environments_lease ON environments (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE events (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    data    TEXT NOT NULL,
    PRIMARY KEY (project, rollout, seq)
) STRICT;

CREATE TABLE effects (
    project    TEXT NOT NULL,
    rollout    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    data       TEXT,
    created_at INTEGER NOT NULL,
    done_at    INTEGER,
    outcome    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (project, rollout, generation)
) STRICT;
CREATE INDEX effects_pending ON effects (project, rollout, generation) WHERE done_at IS NULL;

CREATE TABLE feed (
    seq         INTEGER PRIMARY KEY,
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    kind        TEXT NOT NULL,
    at          INTEGER NOT NULL,
    data        TEXT
) STRICT;
CREATE INDEX feed_project ON feed (project, seq);
CREATE INDEX feed_run ON feed (project, run, seq);

CREATE TABLE releases (
    project    TEXT NOT NULL,
    id         TEXT NOT NULL,
    service    TEXT NOT NULL,
    "commit"   TEXT NOT NULL,
    run        TEXT NOT NULL,
    manifest   BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;
CREATE INDEX releases_service ON releases (project, service, created_at);

CREATE TABLE builds (
    project    TEXT NOT NULL,
    service    TEXT NOT NULL,
    key        TEXT NOT NULL,
    "commit"   TEXT NOT NULL,
    run        TEXT NOT NULL,
    artifacts  TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (project, service, key)
) STRICT;

CREATE TABLE promotions (
    project     TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    number      INTEGER NOT NULL,
    release     TEXT NOT NULL,
    run         TEXT NOT NULL,
    envelope    BLOB NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (project, number)
) STRICT;
CREATE UNIQUE INDEX promotions_once ON promotions (project, service, environment, release, run);

CREATE TABLE packets (
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    environment TEXT NOT NULL,
    digest      TEXT NOT NULL,
    number      INTEGER NOT NULL,
    body        BLOB NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    PRIMARY KEY (project, run, environment, digest)
) STRICT;
CREATE INDEX packets_digest ON packets (project, digest);

CREATE TABLE decisions (
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    environment TEXT NOT NULL,
    packet      TEXT NOT NULL,
    number      INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    decision    TEXT NOT NULL,
    comment     TEXT NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (project, run, environment, packet, actor)
) STRICT;

CREATE TABLE quarantines (
    project       TEXT NOT NULL,
    number        INTEGER NOT NULL,
    service       TEXT NOT NULL,
    release       TEXT NOT NULL,
    reason        TEXT NOT NULL,
    at            INTEGER NOT NULL,
    lifted_at     INTEGER,
    lifted_by     TEXT NOT NULL,
    lifted_reason TEXT NOT NULL,
    PRIMARY KEY (project, number)
) STRICT;
CREATE UNIQUE INDEX quarantines_one ON quarantines (project, service, release) WHERE lifted_at IS NULL;

-- One log per project. Leaves are facts at once; their place in the tree comes
-- within a second, from the one sequencer.
CREATE TABLE logs (
    project    TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    checkpoint BLOB,
    state      BLOB
) STRICT;

CREATE TABLE leaves (
    project        TEXT NOT NULL,
    id             TEXT NOT NULL,
    number         INTEGER NOT NULL,
    leaf_index     INTEGER,
    envelope       BLOB NOT NULL,
    predicate_type TEXT NOT NULL,
    subject        TEXT NOT NULL,
    run            TEXT NOT NULL,
    environment    TEXT NOT NULL,
    at             INTEGER NOT NULL,
    PRIMARY KEY (project, id)
) STRICT;
CREATE UNIQUE INDEX leaves_number ON leaves (project, number);
CREATE UNIQUE INDEX leaves_index ON leaves (project, leaf_index) WHERE leaf_index IS NOT NULL;
CREATE INDEX leaves_waiting ON leaves (project, number) WHERE leaf_index IS NULL;
CREATE INDEX leaves_subject ON leaves (project, subject, number);
CREATE INDEX leaves_run ON leaves (project, run, number);

CREATE TABLE nodes (
    project  TEXT NOT NULL,
    level    INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash     BLOB NOT NULL,
    PRIMARY KEY (project, level, position)
) STRICT;

CREATE TABLE checkpoints (
    project TEXT NOT NULL,
    size    INTEGER NOT NULL,
    note    BLOB NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (project, size)
) STRICT;

CREATE TABLE desired (
    project     TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    document    TEXT NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (project, service, environment)
) STRICT;

CREATE TABLE observed (
    host     TEXT PRIMARY KEY,
    boot     TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    report   TEXT NOT NULL
) STRICT;

CREATE TABLE answers (
    project TEXT NOT NULL,
    key     TEXT NOT NULL,
    request TEXT NOT NULL,
    status  INTEGER NOT NULL,
    body    BLOB,
    at      INTEGER NOT NULL,
    PRIMARY KEY (project, key)
) STRICT;

-- The registry's index: a tag is written once and never moves.
CREATE TABLE tags (
    repo   TEXT NOT NULL,
    tag    TEXT NOT NULL,
    digest TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (repo, tag)
) STRICT;

CREATE TABLE referrers (
    repo          TEXT NOT NULL,
    subject       TEXT NOT NULL,
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    size          INTEGER NOT NULL,
    annotations   TEXT,
    at            INTEGER NOT NULL,
    PRIMARY KEY (repo, subject, digest)
) STRICT;

-- Payloads beside the log: what people wrote, and who they are. A signed
-- redaction may erase them.
CREATE TABLE payloads (
    project TEXT NOT NULL,
    digest  TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (project, digest)
) STRICT;

CREATE TABLE actors (
    project TEXT NOT NULL,
    actor   TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (project, actor)
) STRICT;
