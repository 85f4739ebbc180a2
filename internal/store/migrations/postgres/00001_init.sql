-- +goose Up
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Numbers that rise in commit order. Project '' is the whole database.
CREATE TABLE counters (
    project TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);

CREATE TABLE runs (
    project     TEXT NOT NULL,
    id          TEXT NOT NULL,
    number      BIGINT NOT NULL,
    kind        TEXT NOT NULL,
    service     TEXT NOT NULL,
    repository  TEXT NOT NULL,
    path        TEXT NOT NULL,
    ref         TEXT NOT NULL,
    "commit"    TEXT NOT NULL,
    "to"        TEXT NOT NULL,
    release     TEXT NOT NULL,
    phase       TEXT NOT NULL,
    live        BOOLEAN NOT NULL,
    definition  JSON,
    state       JSON,
    actor       TEXT NOT NULL,
    revision    BIGINT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    wake_at     TIMESTAMPTZ,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until TIMESTAMPTZ,
    epoch       BIGINT NOT NULL DEFAULT 0,
    wakes       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (project, id)
);
CREATE UNIQUE INDEX runs_number ON runs (project, number);
CREATE INDEX runs_service ON runs (project, service, number);
CREATE INDEX runs_live ON runs (project, number) WHERE live;
CREATE INDEX runs_wake ON runs (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_lease ON runs (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE rollouts (
    project     TEXT NOT NULL,
    id          TEXT NOT NULL,
    number      BIGINT NOT NULL,
    run         TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    release     TEXT NOT NULL,
    phase       TEXT NOT NULL,
    live        BOOLEAN NOT NULL,
    engine      BIGINT NOT NULL,
    plan        JSON,
    state       JSON,
    judge       JSON,
    candidate   JSON,
    restore     JSON,
    set_id      TEXT,
    wave        BIGINT,
    revision    BIGINT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    wake_at     TIMESTAMPTZ,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until TIMESTAMPTZ,
    epoch       BIGINT NOT NULL DEFAULT 0,
    wakes       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (project, id)
);
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
    current     JSON,
    previous    JSON,
    retire_at   TIMESTAMPTZ,
    settings    JSON,
    revision    BIGINT NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    wake_at     TIMESTAMPTZ,
    lease_owner TEXT NOT NULL DEFAULT '',
    lease_until TIMESTAMPTZ,
    epoch       BIGINT NOT NULL DEFAULT 0,
    wakes       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (project, service, environment)
);
CREATE INDEX environments_wake ON environments (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX environments_lease ON environments (lease_until) WHERE lease_until IS NOT NULL;

CREATE TABLE events (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    seq     BIGINT NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    data    JSON NOT NULL,
    PRIMARY KEY (project, rollout, seq)
);

CREATE TABLE effects (
    project    TEXT NOT NULL,
    rollout    TEXT NOT NULL,
    generation BIGINT NOT NULL,
    kind       TEXT NOT NULL,
    data       JSON,
    created_at TIMESTAMPTZ NOT NULL,
    done_at    TIMESTAMPTZ,
    outcome    TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (project, rollout, generation)
);
CREATE INDEX effects_pending ON effects (project, rollout, generation) WHERE done_at IS NULL;

CREATE TABLE feed (
    seq         BIGINT PRIMARY KEY,
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    kind        TEXT NOT NULL,
    at          TIMESTAMPTZ NOT NULL,
    data        JSON
);
CREATE INDEX feed_project ON feed (project, seq);
CREATE INDEX feed_run ON feed (project, run, seq);

CREATE TABLE releases (
    project    TEXT NOT NULL,
    id         TEXT NOT NULL,
    service    TEXT NOT NULL,
    "commit"   TEXT NOT NULL,
    run        TEXT NOT NULL,
    manifest   BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX releases_service ON releases (project, service, created_at);

CREATE TABLE builds (
    project    TEXT NOT NULL,
    service    TEXT NOT NULL,
    key        TEXT NOT NULL,
    "commit"   TEXT NOT NULL,
    run        TEXT NOT NULL,
    artifacts  JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, service, key)
);

CREATE TABLE promotions (
    project     TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    number      BIGINT NOT NULL,
    release     TEXT NOT NULL,
    run         TEXT NOT NULL,
    envelope    BYTEA NOT NULL,
    at          TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, number)
);
CREATE UNIQUE INDEX promotions_once ON promotions (project, service, environment, release, run);

CREATE TABLE packets (
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    environment TEXT NOT NULL,
    digest      TEXT NOT NULL,
    number      BIGINT NOT NULL,
    body        BYTEA NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    expires_at  TIMESTAMPTZ,
    PRIMARY KEY (project, run, environment, digest)
);
CREATE INDEX packets_digest ON packets (project, digest);

CREATE TABLE decisions (
    project     TEXT NOT NULL,
    run         TEXT NOT NULL,
    environment TEXT NOT NULL,
    packet      TEXT NOT NULL,
    number      BIGINT NOT NULL,
    actor       TEXT NOT NULL,
    decision    TEXT NOT NULL,
    comment     TEXT NOT NULL,
    at          TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, run, environment, packet, actor)
);

CREATE TABLE quarantines (
    project       TEXT NOT NULL,
    number        BIGINT NOT NULL,
    service       TEXT NOT NULL,
    release       TEXT NOT NULL,
    reason        TEXT NOT NULL,
    at            TIMESTAMPTZ NOT NULL,
    lifted_at     TIMESTAMPTZ,
    lifted_by     TEXT NOT NULL,
    lifted_reason TEXT NOT NULL,
    PRIMARY KEY (project, number)
);
CREATE UNIQUE INDEX quarantines_one ON quarantines (project, service, release) WHERE lifted_at IS NULL;

-- One log per project. Leaves are facts at once; their place in the tree comes
-- within a second, from the one sequencer.
CREATE TABLE logs (
    project    TEXT PRIMARY KEY,
    size       BIGINT NOT NULL,
    checkpoint BYTEA,
    state      BYTEA
);

CREATE TABLE leaves (
    project        TEXT NOT NULL,
    id             TEXT NOT NULL,
    number         BIGINT NOT NULL,
    leaf_index     BIGINT,
    envelope       BYTEA NOT NULL,
    predicate_type TEXT NOT NULL,
    subject        TEXT NOT NULL,
    run            TEXT NOT NULL,
    environment    TEXT NOT NULL,
    at             TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE UNIQUE INDEX leaves_number ON leaves (project, number);
CREATE UNIQUE INDEX leaves_index ON leaves (project, leaf_index) WHERE leaf_index IS NOT NULL;
CREATE INDEX leaves_waiting ON leaves (project, number) WHERE leaf_index IS NULL;
CREATE INDEX leaves_subject ON leaves (project, subject, number);
CREATE INDEX leaves_run ON leaves (project, run, number);

CREATE TABLE nodes (
    project  TEXT NOT NULL,
    level    BIGINT NOT NULL,
    position BIGINT NOT NULL,
    hash     BYTEA NOT NULL,
    PRIMARY KEY (project, level, position)
);

CREATE TABLE checkpoints (
    project TEXT NOT NULL,
    size    BIGINT NOT NULL,
    note    BYTEA NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, size)
);

CREATE TABLE desired (
    project     TEXT NOT NULL,
    service     TEXT NOT NULL,
    environment TEXT NOT NULL,
    generation  BIGINT NOT NULL,
    document    JSON NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, service, environment)
);

CREATE TABLE observed (
    host     TEXT PRIMARY KEY,
    boot     TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    at       TIMESTAMPTZ NOT NULL,
    report   JSON NOT NULL
);

CREATE TABLE answers (
    project TEXT NOT NULL,
    key     TEXT NOT NULL,
    request TEXT NOT NULL,
    status  BIGINT NOT NULL,
    body    BYTEA,
    at      TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (project, key)
);

-- The registry's index: a tag is written once and never moves.
CREATE TABLE tags (
    repo   TEXT COLLATE "C" NOT NULL,
    tag    TEXT COLLATE "C" NOT NULL,
    digest TEXT NOT NULL,
    at     TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (repo, tag)
);

CREATE TABLE referrers (
    repo          TEXT COLLATE "C" NOT NULL,
    subject       TEXT COLLATE "C" NOT NULL,
    digest        TEXT COLLATE "C" NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    size          BIGINT NOT NULL,
    annotations   JSON,
    at            TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (repo, subject, digest)
);

-- Payloads beside the log: what people wrote, and who they are. A signed
-- redaction may erase them.
CREATE TABLE payloads (
    project TEXT NOT NULL,
    digest  TEXT NOT NULL,
    content BYTEA NOT NULL,
    PRIMARY KEY (project, digest)
);

CREATE TABLE actors (
    project TEXT NOT NULL,
    actor   TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (project, actor)
);
