package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/source"
)

// maxDirty is how many changed files a warning names.
const maxDirty = 5

func (a *app) run() *cobra.Command {
	var repo, file, ref, to string
	var noWait bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Take a commit to production: build, gates, approval, rollout",
		Long: `Starts a run of a commit and follows it live. The commit is built, never the
working tree. Ctrl-C stops following; the run goes on.
Exit codes: 0 succeeded, 1 failed before anybody was exposed, 2 definition, 3
rolled back, 4 waits for a person (with --no-wait) or still goes on after Ctrl-C,
5 the rollback is stuck or was given up, 6 cancelled or superseded, 7 no server.
With --json each change is one line and the last line is the final status.`,
		Example: "  sluice run\n  sluice run --ref v1.4.0 --to staging\n  sluice run --repo ../shop --file services/checkout/sluice.yaml --no-wait --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			q, err := a.locate(ctx, repo, file, ref)
			if err != nil {
				return err
			}
			q.Environment = to
			c, err := a.connect()
			if err != nil {
				return err
			}
			if err := a.check(ctx, q); err != nil {
				return err
			}
			var started httpapi.Started
			if err := c.do(ctx, http.MethodPost, c.path("runs"), q, &started); err != nil {
				return a.problems(ctx, err, q)
			}
			a.tellTwins(ctx, c, started.Run)
			return a.followTo(ctx, c, started.Run, noWait)
		},
	}
	f := c.Flags()
	f.StringVar(&repo, "repo", ".", "folder inside the Git repository")
	f.StringVarP(&file, "file", "f", definitionFile, "the definition, from --repo")
	f.StringVar(&ref, "ref", "HEAD", "commit, branch or tag")
	f.StringVar(&to, "to", "", "last environment, default all")
	f.BoolVar(&noWait, "no-wait", false, "end with code 4 when it waits for a person")
	complete(c, "repo", fixed(cobra.ShellCompDirectiveFilterDirs))
	complete(c, "file", fixed(cobra.ShellCompDirectiveFilterFileExt, "yaml", "yml"))
	complete(c, "to", a.environments())
	return c
}

// locate finds the repository and the definition's place inside it.
func (a *app) locate(ctx context.Context, repo, file, ref string) (httpapi.RunRequest, error) {
	q := httpapi.RunRequest{Ref: ref}
	root, prefix, err := source.Root(ctx, repo)
	if err != nil {
		return q, usage("couldn't find the repository: %w", err)
	}
	q.Repository = root
	if filepath.IsAbs(file) {
		rel, err := filepath.Rel(root, real(file))
		if err != nil {
			return q, usage("%s is not inside the repository %s", file, root)
		}
		q.Path = filepath.ToSlash(rel)
	} else {
		q.Path = path.Join(prefix, filepath.ToSlash(file))
	}
	if q.Path == ".." || strings.HasPrefix(q.Path, "../") {
		return q, usage("%s is outside of the repository %s; the definition must be committed in it", file, root)
	}
	a.warnDirty(ctx, root)
	return q, nil
}

func real(p string) string {
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	return p
}

func (a *app) warnDirty(ctx context.Context, root string) {
	files, total, err := source.Dirty(ctx, root, maxDirty)
	if err != nil || total == 0 {
		return // the server builds the commit anyway
	}
	more := ""
	if total > len(files) {
		more = fmt.Sprintf(" and %d more", total-len(files))
	}
	a.say("%s uncommitted changes are not built: %s%s", a.paint(a.err, yellow, "warning:"), clean(strings.Join(files, ", ")), more)
}

// committed is the definition as it is at the commit that will be built.
func (a *app) committed(ctx context.Context, q httpapi.RunRequest) ([]byte, error) {
	commit, err := source.Resolve(ctx, q.Repository, q.Ref)
	if err != nil {
		return nil, usage("couldn't find the commit: %w", err)
	}
	src, err := source.ReadFile(ctx, q.Repository, commit.Hash, q.Path)
	if errors.Is(err, source.ErrNoFile) {
		return nil, usage("commit %s has no file %s; commit it, or name another with --file (sluice init writes one)", commit.Short(), q.Path)
	}
	if err != nil {
		return nil, usage("couldn't read the definition: %w", err)
	}
	return src, nil
}

// check lints the committed definition before the server is asked.
func (a *app) check(ctx context.Context, q httpapi.RunRequest) error {
	src, err := a.committed(ctx, q)
	if err != nil {
		return err
	}
	_, problems := parse(q.Path, src)
	var loud pipeline.Problems
	for _, p := range problems {
		if p.Severity != pipeline.Note && p.Rule != pipeline.UnknownStandard { // the server knows its platform's
			loud = append(loud, p)
		}
	}
	a.show(loud, src)
	if loud.Failed() {
		return usage("%s at %s has %s; mend them, commit, then run again", q.Path, q.Ref, plural(loud.Count(pipeline.Error), "error"))
	}
	return nil
}

// problems shows what the server found wrong with the definition as lint does.
func (a *app) problems(ctx context.Context, err error, q httpapi.RunRequest) error {
	var r *refused
	if !errors.As(err, &r) || len(r.Problems) == 0 {
		return err
	}
	src, readErr := a.committed(ctx, q)
	if readErr != nil {
		return err
	}
	a.show(r.Problems, src)
	return usage("the server refused %s: %s; mend them, commit, then run again", q.Path, plural(r.Problems.Count(pipeline.Error), "error"))
}

// tellTwins says which other runs of the same commit are under way: to queue one
// twice is allowed, and rarely meant. A server that can't be asked is told of by what
// follows.
func (a *app) tellTwins(ctx context.Context, c *client, id string) {
	mine, _, err := c.status(ctx, id)
	if err != nil {
		return
	}
	var runs []control.Status
	if err := c.do(ctx, http.MethodGet, c.path("runs")+query("service", mine.Service, "before", id, "limit", "50"), nil, &runs); err != nil {
		return
	}
	for _, r := range runs {
		if r.Kind == mine.Kind && r.Commit == mine.Commit && r.Repository == mine.Repository && !ended(r) {
			a.say("%s run %s has the same commit and is %s: sluice watch %s shows it, sluice abort %s ends this one", a.paint(a.err, yellow, "warning:"), clean(r.Run), clean(string(r.State)), clean(r.Run), id)
		}
	}
}
