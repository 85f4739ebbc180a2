package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Checkout makes dir, which must be missing or empty, a clean checkout of the
// commit, owned by the caller. Its .git has that one commit and nothing else.
func Checkout(ctx context.Context, repo, commit, dir string) (err error) {
	if err := checkHash(commit); err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("couldn't check out: %s is not empty", dir)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("couldn't check out: %w", err)
	}
	if err := complete(ctx, repo, commit); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("couldn't check out: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("couldn't check out %s: %w", short(commit), errors.Join(err, os.RemoveAll(dir)))
		}
	}()
	format, err := git(ctx, repo, "rev-parse", "--show-object-format")
	if err != nil {
		return err
	}
	if _, err := git(ctx, dir, "init", "--quiet", "--template=", "--object-format="+strings.TrimSpace(string(format)), "."); err != nil {
		return err
	}
	if err := transfer(ctx, repo, commit, dir); err != nil {
		return err
	}
	// The parents are absent on purpose; this file tells git so.
	if err := os.WriteFile(filepath.Join(dir, ".git", "shallow"), []byte(commit+"\n"), 0o644); err != nil {
		return err
	}
	if _, err := git(ctx, dir, "checkout", "--quiet", "--detach", commit); err != nil {
		return err
	}
	return nil
}

// complete refuses commits whose files a plain checkout would not have.
func complete(ctx context.Context, repo, commit string) error {
	out, err := git(ctx, repo, "ls-tree", "-r", "-z", "--full-tree", commit)
	if err != nil {
		return missing(err, commit)
	}
	lfs := false
	for entry := range strings.SplitSeq(string(out), "\x00") {
		meta, name, _ := strings.Cut(entry, "\t")
		if strings.HasPrefix(meta, "160000 ") {
			return fmt.Errorf("couldn't check out %s: %s is a submodule, whose files are not in this repository; copy them into it (git subtree, vendoring) or use a package", short(commit), name)
		}
		if filepath.Base(name) == ".gitattributes" && !lfs {
			b, err := ReadFile(ctx, repo, commit, name)
			if err != nil {
				continue // too large or a link: git ignores such a file too
			}
			if filter := asksForFilter(string(b)); filter != "" {
				return fmt.Errorf("couldn't check out %s: %s asks for the content filter %q (such as Git LFS), whose files are not in this repository; commit the files themselves", short(commit), name, filter)
			}
		}
	}
	return nil
}

// asksForFilter returns the first content filter that an attributes file names.
func asksForFilter(attributes string) string {
	for line := range strings.Lines(attributes) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, word := range strings.Fields(line) {
			if filter, ok := strings.CutPrefix(word, "filter="); ok {
				return filter
			}
		}
	}
	return ""
}

// transfer copies the commit's objects as one pack. No transport is used, so
// nothing of the repository's server-side settings applies.
func transfer(ctx context.Context, repo, commit, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, err := git(ctx, repo, "rev-list", "--objects", "--no-walk", "--no-object-names", commit)
	if err != nil {
		return missing(err, commit)
	}
	pack, err := command(ctx, repo, "pack-objects", "--stdout", "--quiet", "--threads=1", "--delta-base-offset")
	if err != nil {
		return err
	}
	index, err := command(ctx, dir, "index-pack", "--stdin")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	packErr, indexErr := &bounded{max: 64 << 10, cut: true}, &bounded{max: 64 << 10, cut: true}
	pack.Stdin, pack.Stdout, pack.Stderr = strings.NewReader(string(list)), w, packErr
	index.Stdin, index.Stderr = r, indexErr
	startErr := index.Start()
	r.Close()
	if startErr != nil {
		w.Close()
		return fmt.Errorf("couldn't start git: %w", startErr)
	}
	err1 := pack.Run()
	w.Close()
	err2 := index.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err1 != nil:
		return &gitError{"pack-objects", packErr.String(), err1}
	case err2 != nil:
		return &gitError{"index-pack", indexErr.String(), err2}
	}
	return nil
}
