-- +goose Up
-- The boots that a host's boot took the place of, the latest first: a report of
-- one of those that comes late says nothing any more.
ALTER TABLE observed ADD COLUMN former TEXT NOT NULL DEFAULT '';
