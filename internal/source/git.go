package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Errors that callers tell apart.
var (
	ErrNoGit        = errors.New("git isn't installed")
	ErrNoRepository = errors.New("not a Git repository")
	ErrNoCommit     = errors.New("no such commit")
	ErrNoFile       = errors.New("no such file at that commit")
	errTooLong      = errors.New("git's answer is too long")
)

// maxAnswer bounds what git may print where the answer is kept.
const maxAnswer = 64 << 20

// settings override what a repository's own configuration could set. Empty
// commands are no commands.
var settings = [][2]string{
	{"safe.directory", "*"}, // nothing of the repository is executed, whoever owns it
	{"core.fsmonitor", "false"},
	{"core.hooksPath", "/dev/null"},
	{"core.attributesFile", "/dev/null"},
	{"core.excludesFile", "/dev/null"},
	{"core.pager", "cat"},
	{"core.sshCommand", "false"},
	{"core.gitProxy", ""},
	{"core.askPass", ""},
	{"core.alternateRefsCommand", "true"},
	{"core.untrackedCache", "false"},
	{"core.quotePath", "false"},
	{"credential.helper", ""},
	{"diff.external", ""},
	{"log.showSignature", "false"},
	{"protocol.allow", "never"},
	{"gc.auto", "0"},
	{"maintenance.auto", "false"},
	{"submodule.recurse", "false"},
	{"advice.detachedHead", "false"},
	{"init.defaultBranch", "main"},
}

// environment is all that git gets to see.
func environment(extra [][2]string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent",
		"LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "SSH_ASKPASS=false",
		"GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_PAGER=cat", "GIT_EDITOR=false",
	}
	all := append(append([][2]string{}, settings...), extra...)
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(all)))
	for i, kv := range all {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return env
}

// command prepares git in dir.
func command(ctx context.Context, dir string, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("%w: it is what reads your repository; install it (Debian, Ubuntu: apt-get install git; macOS: xcode-select --install)", ErrNoGit)
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"--no-pager", "--literal-pathspecs"}, args...)...)
	cmd.Dir = dir
	cmd.Env = environment(nil)
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// gitError is a git command that failed.
type gitError struct {
	what   string
	stderr string
	err    error
}

// full is what git, or the system by git's mouth, says of a disk without space.
var full = regexp.MustCompile(`(?i)no space left on device|out of diskspace|disk quota exceeded`)

func (e *gitError) Error() string {
	msg := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(e.stderr), "fatal: "))
	if msg == "" {
		msg = e.err.Error()
	}
	out := fmt.Sprintf("git %s: %.500s", e.what, msg)
	if full.MatchString(e.stderr) {
		out += ": free space there and try again"
	}
	return out
}

func (e *gitError) Unwrap() error { return e.err }

// git runs one command and returns what it prints.
func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return gitIn(ctx, dir, nil, args...)
}

func gitIn(ctx context.Context, dir string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd, err := command(ctx, dir, args...)
	if err != nil {
		return nil, err
	}
	return output(ctx, cmd, stdin, args[0])
}

func output(ctx context.Context, cmd *exec.Cmd, stdin io.Reader, what string) ([]byte, error) {
	out, stderr := &bounded{max: maxAnswer}, &bounded{max: 64 << 10, cut: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, stderr
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case out.over:
		return nil, fmt.Errorf("git %s: %w (over %d MiB)", what, errTooLong, maxAnswer>>20)
	case err != nil:
		return nil, &gitError{what, stderr.String(), err}
	}
	return out.Bytes(), nil
}

// bounded keeps at most max bytes; more is an error, or cut off.
type bounded struct {
	bytes.Buffer
	max  int
	cut  bool
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if b.Len()+n > b.max {
		b.over = true
		if !b.cut {
			return 0, errTooLong
		}
		p = p[:max(0, b.max-b.Len())]
	}
	b.Buffer.Write(p)
	return n, nil
}

// ReadFrom hides the buffer's own, which knows no bound.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}
