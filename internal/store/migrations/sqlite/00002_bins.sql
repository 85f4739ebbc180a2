-- +goose Up
-- Closed bins of a rollout, as they were judged: appended, never changed. Number
-- 0 is what was known of the stable version before.
CREATE TABLE bins (
    project TEXT NOT NULL,
    rollout TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    data    TEXT NOT NULL,
    PRIMARY KEY (project, rollout, seq)
) STRICT;
