package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicehq/sluice/internal/registry"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/uptrace/bun"
)

var _ registry.Index = (*Store)(nil)

type tagRow struct {
	bun.BaseModel `bun:"table:tags,alias:t"`
	Repo          string
	Tag           string
	Digest        release.Digest
	At            time.Time
}

// Tag lets tag name d if it names nothing yet, and returns what it names
// afterwards.
func (s *Store) Tag(ctx context.Context, repo, tag string, d release.Digest) (release.Digest, error) {
	var row tagRow
	err := s.Update(ctx, func(tx *Tx) error {
		row = tagRow{Repo: repo, Tag: tag, Digest: d, At: tx.now}
		added, err := tx.insert(&row)
		if err != nil || added {
			return err
		}
		_, err = tx.one(&row, "repo = ? AND tag = ?", repo, tag)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("couldn't tag %s:%s: %w", repo, tag, err)
	}
	return row.Digest, nil
}

// Resolve returns what tag names, or [registry.ErrNoTag].
func (s *Store) Resolve(ctx context.Context, repo, tag string) (release.Digest, error) {
	var row tagRow
	err := s.View(ctx, func(tx *Tx) error {
		ok, err := tx.one(&row, "repo = ? AND tag = ?", repo, tag)
		if err == nil && !ok {
			return registry.ErrNoTag
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("couldn't resolve %s:%s: %w", repo, tag, err)
	}
	return row.Digest, nil
}

// Tags lists at most limit tags that sort by bytes behind after; 0 means all.
func (s *Store) Tags(ctx context.Context, repo, after string, limit int) ([]string, error) {
	var out []string
	err := s.View(ctx, func(tx *Tx) error {
		out = nil
		q := tx.db.NewSelect().Model((*tagRow)(nil)).Column("tag").Where("repo = ? AND tag > ?", repo, after).Order("tag")
		if limit > 0 {
			q.Limit(int64(limit))
		}
		return q.Scan(tx.ctx, &out)
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't list the tags of %s: %w", repo, err)
	}
	return out, nil
}

type referrerRow struct {
	bun.BaseModel `bun:"table:referrers,alias:r"`
	Repo          string
	Subject       release.Digest
	Digest        release.Digest
	MediaType     string
	ArtifactType  string
	Size          int64
	Annotations   json.RawMessage
	At            time.Time
}

// AddReferrer stores that the manifest d refers to subject. The same again
// changes nothing.
func (s *Store) AddReferrer(ctx context.Context, repo string, subject release.Digest, d registry.Descriptor) error {
	row := referrerRow{Repo: repo, Subject: subject, Digest: d.Digest, MediaType: d.MediaType, ArtifactType: d.ArtifactType, Size: d.Size}
	if len(d.Annotations) > 0 {
		b, err := json.Marshal(d.Annotations)
		if err != nil {
			return fmt.Errorf("couldn't store a referrer of %s@%s: %w", repo, subject.Short(), err)
		}
		row.Annotations = b
	}
	err := s.Update(ctx, func(tx *Tx) error {
		row.At = tx.now
		_, err := tx.insert(&row)
		return err
	})
	if err != nil {
		return fmt.Errorf("couldn't store a referrer of %s@%s: %w", repo, subject.Short(), err)
	}
	return nil
}

// Referrers lists at most limit manifests that refer to subject and sort behind
// after, by digest; 0 means all. An empty artifactType means any.
func (s *Store) Referrers(ctx context.Context, repo string, subject release.Digest, artifactType string, after release.Digest, limit int) ([]registry.Descriptor, error) {
	var out []registry.Descriptor
	err := s.View(ctx, func(tx *Tx) error {
		var rows []referrerRow
		q := tx.db.NewSelect().Model(&rows).Where("repo = ? AND subject = ? AND digest > ?", repo, subject, after).Order("digest")
		filter(q, "artifact_type", artifactType)
		if limit > 0 {
			q.Limit(int64(limit))
		}
		if err := q.Scan(tx.ctx); err != nil {
			return err
		}
		out = make([]registry.Descriptor, len(rows))
		for i, row := range rows {
			out[i] = registry.Descriptor{MediaType: row.MediaType, Digest: row.Digest, Size: row.Size, ArtifactType: row.ArtifactType}
			if len(row.Annotations) > 0 {
				if err := json.Unmarshal(row.Annotations, &out[i].Annotations); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't list the referrers of %s@%s: %w", repo, subject.Short(), err)
	}
	return out, nil
}
