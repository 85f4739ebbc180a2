package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sluicehq/sluice/internal/artifact"
	"github.com/sluicehq/sluice/internal/release"
)

// keepUnused is how many releases stay unpacked that no desired state has, so that
// a rollback needs neither registry nor network.
const keepUnused = 10

// store keeps the unpacked files of releases.
//
//	releases/HEX/files/…        the artifact, unpacked
//	releases/HEX/verified.json  written last: what files/ held when it was verified
type store struct {
	dir     string
	fetcher Fetcher
	flight  singleflight.Group
}

// marker says what was verified.
type marker struct {
	Version  int            `json:"version"`
	Release  release.ID     `json:"release"`
	Artifact release.Digest `json:"artifact"`
	Files    []storedFile   `json:"files"`
}

type storedFile struct {
	Path    string         `json:"path"`
	Size    int64          `json:"size"`
	Mode    fs.FileMode    `json:"mode"`
	ModTime int64          `json:"modTime"` // ns
	Digest  release.Digest `json:"digest,omitempty"`
	Link    string         `json:"link,omitempty"`
}

func openStore(dir string, f Fetcher) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the folder for releases: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, fmt.Errorf("couldn't list the releases: %w", err)
	}
	for _, d := range found {
		if err := artifact.Sweep(d); err != nil {
			return nil, fmt.Errorf("couldn't tidy the releases: %w", err)
		}
	}
	return &store{dir: dir, fetcher: f}, nil
}

func (s *store) folder(id release.ID) string { return filepath.Join(s.dir, id.Hex()) }

// verifiedFile marks the folder of a release whose files were verified.
const verifiedFile = "verified.json"

// kept lists the releases whose files are here, verified.
func (s *store) kept() []release.ID {
	marks, err := filepath.Glob(filepath.Join(s.dir, "*", verifiedFile))
	if err != nil {
		return nil
	}
	var out []release.ID
	for _, m := range marks {
		if id, err := release.ParseDigest("sha256:" + filepath.Base(filepath.Dir(m))); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// get returns the folder of a release's files, fetched if they are not there or
// no longer what they were.
func (s *store) get(ctx context.Context, id release.ID, reference string, digest release.Digest) (string, error) {
	ch := s.flight.DoChan(string(id)+" "+string(digest), func() (any, error) {
		return s.getOnce(ctx, id, reference, digest)
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *store) getOnce(ctx context.Context, id release.ID, reference string, digest release.Digest) (string, error) {
	dir := s.folder(id)
	files, mark := filepath.Join(dir, "files"), filepath.Join(dir, verifiedFile)
	if s.intact(files, mark, id, digest) {
		now := time.Now()
		_ = os.Chtimes(mark, now, now) // when it was last used, for prune
		return files, nil
	}
	// The marker goes first: without it, whatever is in the folder counts for nothing.
	for _, p := range []string{mark, files} {
		if err := os.RemoveAll(p); err != nil {
			return "", fmt.Errorf("couldn't remove the altered files of release %s: %w", id.Short(), err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("couldn't make the folder of release %s: %w", id.Short(), err)
	}
	if err := s.fetcher.Fetch(ctx, reference, files); err != nil {
		return "", fmt.Errorf("couldn't fetch %s: %w", reference, err)
	}
	m := marker{Version: 1, Release: id, Artifact: digest}
	var err error
	if m.Files, err = survey(files); err != nil {
		return "", fmt.Errorf("couldn't read the files of release %s: %w", id.Short(), err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("couldn't encode the marker of release %s: %w", id.Short(), err)
	}
	if err := writeFile(mark, b); err != nil {
		return "", fmt.Errorf("couldn't mark release %s as verified: %w", id.Short(), err)
	}
	return files, nil
}

// survey makes the files read only and lists them with their digests.
func survey(root string) ([]storedFile, error) {
	var out []storedFile
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			link, err := os.Readlink(path)
			out = append(out, storedFile{Path: rel, Mode: fs.ModeSymlink, Link: link})
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Chmod(path, info.Mode().Perm()&^0o222); err != nil {
			return err
		}
		sum, err := digestFile(path)
		out = append(out, storedFile{Path: rel, Size: info.Size(), Mode: info.Mode().Perm() &^ 0o222, ModTime: info.ModTime().UnixNano(), Digest: sum})
		return err
	})
	return out, err
}

// intact says whether the files are what they were when they were verified. A file
// whose size and time of change are the same is taken to be; others are read.
func (s *store) intact(files, mark string, id release.ID, digest release.Digest) bool {
	b, err := os.ReadFile(mark)
	if err != nil {
		return false
	}
	var m marker
	if json.Unmarshal(b, &m) != nil || m.Version != 1 || m.Release != id || m.Artifact != digest || len(m.Files) == 0 {
		return false
	}
	for _, f := range m.Files {
		path := filepath.Join(files, f.Path)
		info, err := os.Lstat(path)
		if err != nil {
			return false
		}
		if f.Mode&fs.ModeSymlink != 0 {
			if link, err := os.Readlink(path); err != nil || link != f.Link {
				return false
			}
			continue
		}
		if !info.Mode().IsRegular() || info.Size() != f.Size || info.Mode().Perm() != f.Mode {
			return false
		}
		if info.ModTime().UnixNano() != f.ModTime {
			if sum, err := digestFile(path); err != nil || sum != f.Digest {
				return false
			}
		}
	}
	return true
}

func digestFile(path string) (release.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return release.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}

// prune removes the releases that were used longest ago and are not in use.
func (s *store) prune(inUse map[release.ID]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("couldn't list the releases: %w", err)
	}
	type old struct {
		name string
		used time.Time
	}
	var unused []old
	for _, e := range entries {
		id, err := release.ParseDigest("sha256:" + e.Name())
		if err != nil || inUse[id] {
			continue
		}
		var used time.Time
		if info, err := os.Stat(filepath.Join(s.dir, e.Name(), verifiedFile)); err == nil {
			used = info.ModTime()
		}
		unused = append(unused, old{e.Name(), used})
	}
	sort.Slice(unused, func(i, j int) bool { return unused[i].used.After(unused[j].used) })
	var errs []error
	for _, o := range unused[min(keepUnused, len(unused)):] {
		errs = append(errs, os.RemoveAll(filepath.Join(s.dir, o.name)))
	}
	return errors.Join(errs...)
}

// mayPass says whether a failure to get a release may pass by itself.
func mayPass(err error) bool {
	return errors.Is(err, artifact.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
