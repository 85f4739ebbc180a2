package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type payloadRow struct {
	bun.BaseModel `bun:"table:payloads,alias:pl"`
	Project       string
	Digest        release.Digest
	Content       []byte
}

// PutPayload keeps what a statement commits to. The same again is a no-op.
func (tx *Tx) PutPayload(project string, d release.Digest, content []byte) error {
	if err := tx.writable("keep a payload"); err != nil {
		return err
	}
	if _, err := tx.insert(&payloadRow{Project: project, Digest: d, Content: content}); err != nil {
		return fmt.Errorf("couldn't keep payload %s: %w", d.Short(), err)
	}
	return nil
}

// Payload returns a payload, false if there is none or it was erased.
func (tx *Tx) Payload(project string, d release.Digest) ([]byte, bool, error) {
	var row payloadRow
	ok, err := tx.one(&row, "project = ? AND digest = ?", project, string(d))
	if err != nil {
		return nil, false, fmt.Errorf("couldn't read payload %s: %w", d.Short(), err)
	}
	return row.Content, ok, nil
}

type actorRow struct {
	bun.BaseModel `bun:"table:actors,alias:ac"`
	Project       string
	Actor         release.Actor
	Digest        release.Digest
}

// Actor returns the digest that stands for a person in a project's statements.
// The first call decides it: d, whose blob is kept as a payload.
func (tx *Tx) Actor(project string, a release.Actor, d release.Digest, blob []byte) (release.Digest, error) {
	if err := tx.writable("name an actor"); err != nil {
		return "", err
	}
	if _, err := tx.insert(&actorRow{Project: project, Actor: a, Digest: d}); err != nil {
		return "", fmt.Errorf("couldn't name an actor: %w", err)
	}
	var row actorRow
	ok, err := tx.one(&row, "project = ? AND actor = ?", project, string(a))
	if err != nil || !ok {
		return "", fmt.Errorf("couldn't read an actor's name: %w", err)
	}
	if row.Digest == d {
		return d, tx.PutPayload(project, d, blob)
	}
	return row.Digest, nil
}

// Leaf returns a statement by its ID.
func (tx *Tx) Leaf(project, id string) (Leaf, bool, error) {
	var row leafRow
	ok, err := tx.one(&row, "project = ? AND id = ?", project, id)
	if err != nil {
		return Leaf{}, false, fmt.Errorf("couldn't read statement %s/%s: %w", project, id, err)
	}
	return row.Leaf, ok, nil
}

// LogID returns the random id of a project's log. It is made once with the log,
// so that a log which was begun anew is another one.
func (tx *Tx) LogID(project string) (string, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	key := "log/" + project
	if tx.write {
		if _, err := tx.db.ExecContext(tx.ctx, "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", key, hex.EncodeToString(b[:])); err != nil {
			return "", fmt.Errorf("couldn't name the log of %s: %w", project, err)
		}
	}
	var id string
	if err := tx.db.QueryRowContext(tx.ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&id); err != nil {
		return "", fmt.Errorf("couldn't read the name of the log of %s: %w", project, err)
	}
	return id, nil
}
