package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/release"
)

// Commit is one commit, as its author wrote it.
type Commit struct {
	Hash    string    `json:"hash"`
	Tree    string    `json:"tree"`
	Author  string    `json:"author"` // Name <email>
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"` // of the commit
}

// Short returns the first twelve digits of the hash, for people.
func (c Commit) Short() string { return short(c.Hash) }

func short(hash string) string { return hash[:min(len(hash), 12)] }

// commitFormat is what parseCommits reads.
const commitFormat = "--format=%H%x00%T%x00%an <%ae>%x00%s%x00%ct"

// Root returns the top folder of the repository that dir is in, and dir's path
// inside it, slash-separated and empty for the top.
func Root(ctx context.Context, dir string) (root, prefix string, err error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return "", "", fmt.Errorf("%w: %s is not a folder; name one with --repo DIR", ErrNoRepository, dir)
	}
	out, err := git(ctx, dir, "rev-parse", "--show-toplevel", "--show-prefix")
	var failed *gitError
	switch {
	case errors.As(err, &failed) && strings.Contains(failed.stderr, "must be run in a work tree"):
		// A bare repository is its own top.
		abs, err := filepath.Abs(dir)
		return abs, "", err
	case errors.As(err, &failed):
		why := ""
		if !strings.Contains(failed.stderr, "not a git repository") {
			why = fmt.Sprintf(" (%v)", err) // it is one, and Git will not open it
		}
		return "", "", fmt.Errorf("%w: %s%s; go to your service's repository or pass --repo DIR; a new one is made with: git init && git add . && git commit", ErrNoRepository, dir, why)
	case err != nil:
		return "", "", err
	}
	top, rest, _ := strings.Cut(string(out), "\n")
	return top, strings.TrimSuffix(strings.TrimSuffix(rest, "\n"), "/"), nil
}

// Resolve returns the commit that ref means in the repository: a hash, branch,
// tag or any expression of git rev-parse. Empty is HEAD.
func Resolve(ctx context.Context, repo, ref string) (Commit, error) {
	if _, _, err := Root(ctx, repo); err != nil {
		return Commit{}, err
	}
	if ref == "" {
		ref = "HEAD"
	}
	if len(ref) > 250 || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, "\x00\n") {
		return Commit{}, fmt.Errorf("%w: %.60q can't be the name of a commit", ErrNoCommit, ref)
	}
	out, err := git(ctx, repo, "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
	var failed *gitError
	if errors.As(err, &failed) {
		return Commit{}, noCommit(ctx, repo, ref)
	}
	if err != nil {
		return Commit{}, err
	}
	all, err := log(ctx, repo, "-1", strings.TrimSpace(string(out)))
	if err != nil {
		return Commit{}, err
	}
	if len(all) != 1 {
		return Commit{}, noCommit(ctx, repo, ref)
	}
	return all[0], nil
}

// noCommit says what a user can do about a commit that isn't there.
func noCommit(ctx context.Context, repo, ref string) error {
	if _, err := git(ctx, repo, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil && ref == "HEAD" {
		return fmt.Errorf("%w: %s has no commit yet; make one with: git add . && git commit", ErrNoCommit, repo)
	}
	msg := fmt.Sprintf("%.60q does not exist in %s; if it was made elsewhere, get it with: git fetch", ref, repo)
	out, err := git(ctx, repo, "for-each-ref", "--sort=-committerdate", "--count=5", "--format=%(refname:short)", "refs/heads", "refs/tags")
	if names := strings.Fields(string(out)); err == nil && len(names) > 0 {
		msg += " (newest names here: " + strings.Join(names, ", ") + ")"
	}
	return fmt.Errorf("%w: %s", ErrNoCommit, msg)
}

// log runs git log with the fixed format.
func log(ctx context.Context, repo string, args ...string) ([]Commit, error) {
	base := []string{"log", "-z", "--no-show-signature", "--no-ext-diff", "--no-color", "--no-mailmap", "--encoding=UTF-8", commitFormat}
	out, err := git(ctx, repo, append(append(base, args...), "--")...)
	if err != nil {
		return nil, err
	}
	return parseCommits(out)
}

// parseCommits reads commits of five fields, all ended by zero bytes.
func parseCommits(out []byte) ([]Commit, error) {
	var all []Commit
	out = bytes.TrimSuffix(out, []byte{0})
	if len(out) == 0 {
		return nil, nil
	}
	f := strings.Split(string(out), "\x00")
	if len(f)%5 != 0 {
		return nil, fmt.Errorf("couldn't read git's log: %d fields", len(f))
	}
	for ; len(f) > 0; f = f[5:] {
		sec, err := strconv.ParseInt(f[4], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("couldn't read git's log: %w", err)
		}
		all = append(all, Commit{
			Hash: f[0], Tree: f[1],
			Author:  strings.ToValidUTF8(f[2], "\uFFFD"),
			Subject: strings.ToValidUTF8(f[3], "\uFFFD"),
			Time:    time.Unix(sec, 0).UTC(),
		})
	}
	return all, nil
}

// Commits returns what was committed after from up to to, newest first, at most
// limit.
func Commits(ctx context.Context, repo, from, to string, limit int) ([]Commit, error) {
	if err := checkHash(from, to); err != nil {
		return nil, err
	}
	all, err := log(ctx, repo, "--max-count="+strconv.Itoa(limit), to, "^"+from)
	if err != nil {
		return nil, missing(err, from, to)
	}
	return all, nil
}

// Dirty returns the files of the working tree that differ from HEAD or aren't
// tracked, at most limit, and how many there are. They will not be built.
func Dirty(ctx context.Context, repo string, limit int) (files []string, total int, err error) {
	if out, err := git(ctx, repo, "rev-parse", "--is-bare-repository"); err == nil && strings.TrimSpace(string(out)) == "true" {
		return nil, 0, nil
	}
	off, err := filtersOff(ctx, repo)
	if err != nil {
		return nil, 0, err
	}
	cmd, err := command(ctx, repo, "status", "--porcelain=v1", "-z", "--untracked-files=normal", "--ignore-submodules=all", "--no-renames")
	if err != nil {
		return nil, 0, err
	}
	cmd.Env = environment(off)
	out, err := output(ctx, cmd, nil, "status")
	if err != nil {
		return nil, 0, fmt.Errorf("couldn't look for uncommitted files: %w", err)
	}
	for entry := range strings.SplitSeq(string(out), "\x00") {
		if len(entry) < 4 {
			continue
		}
		if total++; total <= limit {
			files = append(files, entry[3:])
		}
	}
	return files, total, nil
}

// filtersOff overrides the content filters that the repository configures: they
// are commands, and git status would run them.
func filtersOff(ctx context.Context, repo string) ([][2]string, error) {
	out, err := git(ctx, repo, "config", "--list", "--name-only", "-z", "--includes")
	if err != nil {
		return nil, fmt.Errorf("couldn't read the repository's settings: %w", err)
	}
	var off [][2]string
	for name := range strings.SplitSeq(string(out), "\x00") {
		if !strings.HasPrefix(strings.ToLower(name), "filter.") {
			continue
		}
		switch key := name[strings.LastIndexByte(name, '.')+1:]; strings.ToLower(key) {
		case "required":
			off = append(off, [2]string{name, "false"})
		default:
			off = append(off, [2]string{name, ""})
		}
	}
	return off, nil
}

// maxFile bounds a file that is read whole.
const maxFile = 4 << 20

// ReadFile returns a regular file as it is at the commit; its path is relative
// to the repository's top.
func ReadFile(ctx context.Context, repo, commit, name string) ([]byte, error) {
	if err := checkHash(commit); err != nil {
		return nil, err
	}
	clean := path.Clean(name)
	if name == "" || path.IsAbs(clean) || clean == "." || strings.HasPrefix(clean, "..") || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("%w: %.200q is not a path inside the repository", ErrNoFile, name)
	}
	out, err := git(ctx, repo, "ls-tree", "-z", "-l", "--full-tree", commit, "--", clean)
	if err != nil {
		return nil, missing(err, commit)
	}
	entry, _, _ := strings.Cut(string(out), "\x00")
	meta, _, _ := strings.Cut(entry, "\t")
	f := strings.Fields(meta) // mode, type, object, size
	switch {
	case len(f) != 4:
		return nil, fmt.Errorf("%w: %s at %s; is it committed? (git add %s && git commit)", ErrNoFile, clean, short(commit), clean)
	case f[1] != "blob" || f[0] == "120000":
		return nil, fmt.Errorf("%w: %s at %s is not a regular file", ErrNoFile, clean, short(commit))
	}
	if size, err := strconv.ParseInt(f[3], 10, 64); err != nil || size > maxFile {
		return nil, fmt.Errorf("couldn't read %s: it has %s bytes, the limit is %d", clean, f[3], maxFile)
	}
	b, err := git(ctx, repo, "cat-file", "blob", f[2])
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s at %s: %w", clean, short(commit), err)
	}
	return b, nil
}

// TreeDigest names the files of a commit without those in excluding: it stays
// the same across commits that change only them. With the definition excluded,
// an equal digest means that a build would see the same source.
func TreeDigest(ctx context.Context, repo, commit string, excluding ...string) (release.Digest, error) {
	if err := checkHash(commit); err != nil {
		return "", err
	}
	out, err := git(ctx, repo, "ls-tree", "-r", "-z", "--full-tree", commit)
	if err != nil {
		return "", missing(err, commit)
	}
	skip := map[string]bool{}
	for _, p := range excluding {
		skip[path.Clean(filepath.ToSlash(p))] = true
	}
	var kept bytes.Buffer
	for entry := range strings.SplitSeq(string(out), "\x00") {
		if _, name, ok := strings.Cut(entry, "\t"); ok && !skip[name] {
			kept.WriteString(entry)
			kept.WriteByte(0)
		}
	}
	return release.DigestOf(kept.Bytes()), nil
}

// checkHash accepts full object names only: a name that can move is resolved
// once, by Resolve.
func checkHash(hashes ...string) error {
	for _, h := range hashes {
		if (len(h) != 40 && len(h) != 64) || strings.Trim(h, "0123456789abcdef") != "" {
			return fmt.Errorf("%w: %.80q is not a full commit hash", ErrNoCommit, h)
		}
	}
	return nil
}

// missing turns git's complaint about an unknown object into ErrNoCommit.
func missing(err error, hashes ...string) error {
	var failed *gitError
	if !errors.As(err, &failed) {
		return err
	}
	for _, s := range []string{"bad object", "Not a valid object name", "not a tree object", "bad revision", "unknown revision"} {
		if strings.Contains(failed.stderr, s) {
			return fmt.Errorf("%w: %s is not in this repository; get it with: git fetch", ErrNoCommit, strings.Join(hashes, " or "))
		}
	}
	return err
}
