package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Code is what the program ends with, the same for every command.
type Code int

// The exit codes of interface.md.
const (
	OK             Code = 0
	Failed         Code = 1 // before anyone was exposed
	Usage          Code = 2 // or definition
	RolledBack     Code = 3
	WaitsForPerson Code = 4 // only with --no-wait
	RollbackFailed Code = 5 // stuck or given up
	Cancelled      Code = 6 // or superseded
	Unreachable    Code = 7
)

// exit ends the program with a code. Its error, if any, is shown.
type exit struct {
	code Code
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exit) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exit{code: Usage, err: fmt.Errorf(format, args...)}
}

// app is one invocation.
type app struct {
	in       io.Reader
	typed    *bufio.Reader // what a person answers
	out, err io.Writer
	json     bool
	server   string
	token    string
	data     string
	project  string
	outTTY   bool
	errTTY   bool
	answered bool // the document that was asked for is out: an error after it is told on standard error alone
}

// Main runs a command line and returns the exit code.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, args, in, out, errOut)
}

func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut, outTTY: isTerminal(out), errTTY: isTerminal(errOut)}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return int(OK)
	}
	var e *exit
	switch {
	case errors.As(err, &e):
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		e = &exit{code: Cancelled, err: errors.New("stopped before it was done; sluice status shows what the server did")}
	default:
		e = &exit{code: Failed, err: err}
	}
	if e.err != nil {
		if !a.answered && (a.json || slices.Contains(args, "--json")) { // a wrong flag ends the reading of flags
			_ = a.printLine(struct {
				Error told `json:"error"`
			}{tell(e)})
		}
		a.say("%s %s", a.paint(errOut, red, "sluice:"), e.err)
	}
	return int(e.code)
}

// told is an error for programs: with --json it stands on standard output, in the
// place of what was asked for.
type told struct {
	Message string `json:"message"`
	Hint    string `json:"hint"` // what to do, if the message ends with it
	Code    Code   `json:"code"` // exit code
}

// tell parts an error into what happened and what to do: that follows the last
// semicolon, or stands on the lines after the first.
func tell(e *exit) told {
	text := e.err.Error()
	out := told{Message: text, Code: e.code}
	if first, rest, more := strings.Cut(text, "\n"); more {
		out.Message, out.Hint = first, rest
	} else if i := strings.LastIndex(text, "; "); i > 0 {
		out.Message, out.Hint = text[:i], text[i+2:]
	}
	return out
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Release-safety control plane: build once, promote by digest, expose step by step, take back by itself",
		Long: `Sluice takes a commit to production the way a careful release engineer would:
it builds once, filters risk through gates, exposes the new version to traffic a
little at a time, watches, takes it back by itself when it is worse, and proves
afterwards what happened.

Begin with "sluice demo", or with "sluice init" in a service's repository.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.ArbitraryArgs,
	}
	root.SuggestionsMinimumDistance = 2
	root.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		text := fmt.Sprintf("there is no command %q", args[0])
		if near := root.SuggestionsFor(args[0]); len(near) > 0 {
			text += " (did you mean " + strings.Join(near, " or ") + "?)"
		}
		return usage("%s; sluice --help lists all", text)
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%s; see %s --help", wrongFlag(err), c.CommandPath())
	})
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print JSON")
	f.StringVar(&a.server, "server", os.Getenv("SLUICE_SERVER"), "address of the server (SLUICE_SERVER)")
	f.StringVar(&a.token, "token", "", "access token (SLUICE_TOKEN)")
	f.StringVar(&a.data, "data", ".sluice", "data folder")
	f.StringVar(&a.project, "project", "default", "project")
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start:"},
		&cobra.Group{ID: "release", Title: "Release:"},
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "control", Title: "Control:"},
		&cobra.Group{ID: "define", Title: "Define:"},
	)
	add := func(group string, cs ...*cobra.Command) {
		for _, c := range cs {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("start", a.demo(), a.up(), a.down(), a.agent(), a.agentToken())
	add("define", a.init(), a.lint(), a.plan(), a.advise(), a.judge())
	add("release", a.run(), a.promote(), a.rollback(), a.rehearse())
	add("look", a.runs(), a.status(), a.logs(), a.watch(), a.explain(), a.replay(), a.artifact(), a.evidence())
	add("control", a.decide("approve"), a.decide("reject"), a.command("advance"), a.command("pause"), a.command("resume"), a.command("abort"), a.giveUp(), a.quarantine())
	root.AddCommand(a.version())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.RunE = func(c *cobra.Command, _ []string) error {
				return usage("say which shell: sluice completion bash|fish|powershell|zsh")
			}
			c.Args = cobra.ArbitraryArgs
		}
	}
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// wrapArgs makes wrong arguments a usage error, for every command.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage("%s; usage: %s", wrongArgs(c, args), c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// wrongArgs says what is wrong with a number of arguments.
func wrongArgs(c *cobra.Command, args []string) string {
	_, wants, _ := strings.Cut(c.Use, " ")
	wants, _, _ = strings.Cut(wants, " --")
	need := len(strings.Fields(wants)) - strings.Count(wants, "[")
	switch {
	case wants == "":
		return fmt.Sprintf("%s takes no argument, and %q is one", c.CommandPath(), args[0])
	case len(args) < need:
		return fmt.Sprintf("%s needs %s", c.CommandPath(), wants)
	}
	return fmt.Sprintf("%s takes %s, and there are %d arguments", c.CommandPath(), wants, len(args))
}

// wrongFlag says what is wrong with a flag, without the words of the parser.
func wrongFlag(err error) string {
	text, parser, found := strings.Cut(err.Error(), ": strconv.")
	switch {
	case !found:
		return err.Error()
	case strings.HasPrefix(parser, "ParseBool"):
		return text + ": it is true or false"
	}
	return text + ": it is a number"
}

// Version is the version of this build, from the module or the commit.
func Version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := b.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range b.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += "+" + s.Value[:12]
		}
	}
	return v
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  sluice version --json", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": Version()})
			}
			fmt.Fprintln(a.out, "sluice", Version())
			return nil
		},
	}
}
