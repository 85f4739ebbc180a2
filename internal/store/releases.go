package store

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

type releaseRow struct {
	bun.BaseModel `bun:"table:releases,alias:r"`
	Release
}

// InsertRelease adds a release and fills its time. The same again is fine and
// fills r with what is there; another manifest under its ID is [ErrExists].
func (tx *Tx) InsertRelease(r *Release) error {
	if err := tx.writable("add a release"); err != nil {
		return err
	}
	restore(tx, r)
	r.CreatedAt = tx.now
	added, err := tx.insert(&releaseRow{Release: *r})
	if err == nil && !added {
		var old Release
		if old, _, err = tx.Release(r.Project, r.ID); err == nil {
			if !bytes.Equal(old.Manifest, r.Manifest) {
				err = ErrExists
			} else {
				*r = old
			}
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't add release %s/%s: %w", r.Project, r.ID.Short(), err)
	}
	return nil
}

// Release returns a release by its whole ID.
func (tx *Tx) Release(project string, id release.ID) (Release, bool, error) {
	var row releaseRow
	ok, err := tx.one(&row, "project = ? AND id = ?", project, id)
	if err != nil {
		return Release{}, false, fmt.Errorf("couldn't read release %s/%s: %w", project, id.Short(), err)
	}
	return row.Release, ok, nil
}

// maxFound bounds what [Tx.FindReleases] returns.
const maxFound = 100

// FindReleases returns the newest releases whose ID, or its hex digits, begin
// with prefix: at most 100. An empty service means any.
func (tx *Tx) FindReleases(project, service, prefix string) ([]Release, error) {
	hex := strings.ToLower(strings.TrimPrefix(prefix, "sha256:"))
	if strings.Trim(hex, "0123456789abcdef") != "" {
		return nil, nil // no ID begins so
	}
	var rows []releaseRow
	q := tx.db.NewSelect().Model(&rows).Where("project = ? AND id LIKE ?", project, "sha256:"+hex+"%").
		Order("created_at DESC", "id").Limit(maxFound)
	filter(q, "service", service)
	if err := q.Scan(tx.ctx); err != nil {
		return nil, fmt.Errorf("couldn't look for releases: %w", err)
	}
	out := make([]Release, len(rows))
	for i := range rows {
		out[i] = rows[i].Release
	}
	return out, nil
}

type buildRow struct {
	bun.BaseModel `bun:"table:builds,alias:b"`
	Build
}

// Build returns what the inputs named by key were built into.
func (tx *Tx) Build(project, service string, key release.Digest) (Build, bool, error) {
	var row buildRow
	ok, err := tx.one(&row, `project = ? AND service = ? AND "key" = ?`, project, service, key)
	if err != nil {
		return Build{}, false, fmt.Errorf("couldn't read build %s: %w", key.Short(), err)
	}
	return row.Build, ok, nil
}

// InsertBuild adds a build and fills its time. The same again is fine; other
// artifacts of the same inputs are [ErrExists]: the first stay.
func (tx *Tx) InsertBuild(b *Build) error {
	if err := tx.writable("add a build"); err != nil {
		return err
	}
	restore(tx, b)
	b.CreatedAt = tx.now
	added, err := tx.insert(&buildRow{Build: *b})
	if err == nil && !added {
		var old Build
		if old, _, err = tx.Build(b.Project, b.Service, b.Key); err == nil && !bytes.Equal(old.Artifacts, b.Artifacts) {
			err = ErrExists
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't add build %s of %s/%s: %w", b.Key.Short(), b.Project, b.Service, err)
	}
	return nil
}

type promotionRow struct {
	bun.BaseModel `bun:"table:promotions,alias:p"`
	Promotion
	Number int64
}

// InsertPromotion adds a promotion and fills its time if it has none. The same
// release may enter again by another run; the same run again is fine, but with
// another envelope [ErrExists].
func (tx *Tx) InsertPromotion(p *Promotion) error {
	if err := tx.writable("add a promotion"); err != nil {
		return err
	}
	n, err := tx.next(p.Project, "promotion")
	if err != nil {
		return err
	}
	restore(tx, p)
	if p.At.IsZero() {
		p.At = tx.now
	}
	added, err := tx.insert(&promotionRow{Promotion: *p, Number: n})
	if err == nil && !added {
		var old promotionRow
		var ok bool
		ok, err = tx.one(&old, byKey+" AND release = ? AND run = ?", p.Project, p.Service, p.Environment, p.Release, p.Run)
		if err == nil && (!ok || !bytes.Equal(old.Envelope, p.Envelope)) {
			err = ErrExists
		}
	}
	if err != nil {
		return fmt.Errorf("couldn't add the promotion of %s into %s: %w", p.Release.Short(), p.Key, err)
	}
	return nil
}

// Promotion returns the newest promotion of a release into k.
func (tx *Tx) Promotion(k release.Key, id release.ID) (Promotion, bool, error) {
	var rows []promotionRow
	err := tx.db.NewSelect().Model(&rows).Where(byKey+" AND release = ?", k.Project, k.Service, k.Environment, id).
		Order("number DESC").Limit(1).Scan(tx.ctx)
	if err != nil {
		return Promotion{}, false, fmt.Errorf("couldn't read the promotion of %s into %s: %w", id.Short(), k, err)
	}
	if len(rows) == 0 {
		return Promotion{}, false, nil
	}
	return rows[0].Promotion, true, nil
}

// Promotions lists what entered k, newest first.
func (tx *Tx) Promotions(k release.Key) ([]Promotion, error) {
	var rows []promotionRow
	err := tx.db.NewSelect().Model(&rows).Where(byKey, k.Project, k.Service, k.Environment).Order("number DESC").Scan(tx.ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't list the promotions into %s: %w", k, err)
	}
	out := make([]Promotion, len(rows))
	for i := range rows {
		out[i] = rows[i].Promotion
	}
	return out, nil
}
