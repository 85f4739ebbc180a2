package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
)

func (a *app) runs() *cobra.Command {
	var service, before string
	var limit int
	c := &cobra.Command{
		Use:     "runs",
		Short:   "List runs, newest first",
		Example: "  sluice runs --service checkout --limit 5",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 500 {
				return usage("--limit is %d; it is from 1 to 500", limit)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			b, err := c.raw(cmd.Context(), http.MethodGet, c.path("runs")+query("service", service, "before", before, "limit", strconv.Itoa(limit)), nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(b)
			}
			var runs []control.Status
			if err := json.Unmarshal(b, &runs); err != nil {
				return fmt.Errorf("couldn't read the server's answer: %w", err)
			}
			if len(runs) == 0 {
				a.say("There are no runs yet. Start one in a service's repository: sluice run")
				return nil
			}
			return a.table("RUN\tSERVICE\tCOMMIT\tSTATE\tWHERE\tSTARTED", func(row func(...string)) {
				for _, r := range runs {
					kind := ""
					if r.Kind != "" && r.Kind != "run" {
						kind = " (" + r.Kind + ")"
					}
					row(r.Run, r.Service+kind, commit(r.Commit), string(r.State), where(r), ago(r.CreatedAt))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&service, "service", "s", "", "only of this service")
	f.StringVar(&before, "before", "", "only older than this run")
	f.IntVarP(&limit, "limit", "n", 20, "how many, at most 500")
	complete(c, "service", a.services())
	complete(c, "before", a.runNumbers())
	return c
}

// where names the environment that a run is at, or ended in.
func where(r control.Status) string {
	out := "build"
	for _, e := range r.Environments {
		if e.State != "pending" && e.State != "" {
			out = e.Name
		}
	}
	if len(r.Steps) == 0 && out == "build" && r.Kind != "run" {
		return "-"
	}
	return out
}

// table writes rows with aligned columns; states are painted afterwards, so that
// colours do not count as width.
func (a *app) table(head string, fill func(row func(cells ...string))) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	fill(func(cells ...string) {
		for i, c := range cells {
			if c = clean(c); c == "" {
				c = "-"
			}
			cells[i] = c
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	})
	if err := w.Flush(); err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		if a.outTTY {
			line = cut(line, a.width(a.out))
		}
		if i == 0 {
			line = a.paint(a.out, dim, line)
		} else if a.colour(a.out) {
			words := strings.SplitAfter(line, " ")
			for j, w := range words {
				bare := strings.TrimRight(w, " ")
				words[j] = a.state(a.out, bare) + w[len(bare):]
			}
			line = strings.Join(words, "")
		}
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return err
		}
	}
	return nil
}

// pick returns the run that the arguments name, or the newest.
func (a *app) pick(ctx context.Context, c *client, args []string) (string, error) {
	if len(args) > 0 {
		if !isRun(args[0]) {
			return "", usage("%q is not the number of a run; sluice runs lists them", args[0])
		}
		return args[0], nil
	}
	var runs []control.Status
	if err := c.do(ctx, http.MethodGet, c.path("runs")+"?limit=1", nil, &runs); err != nil {
		return "", err
	}
	if len(runs) == 0 {
		return "", usage("there are no runs yet; start one in a service's repository: sluice run")
	}
	return runs[0].Run, nil
}

func (a *app) status() *cobra.Command {
	c := &cobra.Command{
		Use:     "status [RUN]",
		Short:   "Show a run: build, gates, traffic, verdict (default: the newest)",
		Example: "  sluice status\n  sluice status 12 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			id, err := a.pick(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			s, raw, err := c.status(cmd.Context(), id)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(raw)
			}
			for _, l := range a.statusLines(s, a.out) {
				for _, part := range hung(l, a.width(a.out)) {
					fmt.Fprintln(a.out, part)
				}
			}
			a.warnOpen(cmd.Context(), c)
			return nil
		},
	}
	c.ValidArgsFunction = first(a.runNumbers())
	return c
}

// hung breaks a line between words so that it fits width, and goes on under the
// column where its facts begin.
func hung(line string, width int) []string {
	if utf8.RuneCountInString(plainText(line)) <= width {
		return []string{line}
	}
	label, text := splitLabel(line)
	parts := wrap(text, max(20, width-labelWidth))
	for i, p := range parts {
		parts[i] = label + p
		label = strings.Repeat(" ", labelWidth)
	}
	return parts
}

// splitLabel takes the first labelWidth visible columns off a line.
func splitLabel(line string) (label, rest string) {
	n := 0
	for i := 0; i < len(line); {
		if m := leading(line[i:]); m > 0 {
			i += m
			continue
		}
		if n == labelWidth {
			return line[:i], line[i:]
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		i += size
		n++
	}
	return line, ""
}

func (a *app) watch() *cobra.Command {
	var noWait bool
	c := &cobra.Command{
		Use:   "watch [RUN]",
		Short: "Follow a run live until it ends (default: the newest)",
		Long: `Follows a run as "sluice run" does, with its exit codes. Ctrl-C stops following;
the run goes on.`,
		Example: "  sluice watch 12\n  sluice watch 12 --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			id, err := a.pick(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			return a.followTo(cmd.Context(), c, id, noWait)
		},
	}
	c.Flags().BoolVar(&noWait, "no-wait", false, "end with code 4 when it waits for a person")
	c.ValidArgsFunction = first(a.runNumbers())
	return c
}

func (a *app) explain() *cobra.Command {
	c := &cobra.Command{
		Use:     "explain [RUN]",
		Short:   "Say why a run waits, what is next and what you can do",
		Example: "  sluice explain 12",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			id, err := a.pick(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			b, err := c.raw(cmd.Context(), http.MethodGet, c.path("runs/%s/explanation", id), nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(b)
			}
			var x control.Explanation
			if err := json.Unmarshal(b, &x); err != nil {
				return fmt.Errorf("couldn't read the server's answer: %w", err)
			}
			a.printExplanation(x)
			return nil
		},
	}
	c.ValidArgsFunction = first(a.runNumbers())
	return c
}

func (a *app) printExplanation(x control.Explanation) {
	at := ""
	if x.Environment != "" {
		at = " in " + clean(x.Environment)
	}
	fmt.Fprintf(a.out, "%s%s\n", a.paint(a.out, bold, "Run "+clean(x.Run)), at)
	s := sheet{a: a, w: a.out, label: 9}
	for _, p := range [][2]string{{"now", x.Now}, {"why", x.Why}, {"next", x.Next}, {"when", x.When}} {
		if p[1] != "" {
			s.put(p[0], clean(p[1]))
		}
	}
	label := "you can"
	for _, c := range x.Choices {
		if line := c.Line(); line != "" {
			s.put(label, clean(line))
			if c.Text != "" {
				sheet{a: a, w: a.out, label: 2, indent: 9}.put("", clean(c.Text))
			}
		} else {
			s.put(label, clean(c.Text))
		}
		label = ""
	}
}

// logEvery is how often a running step's log is read.
const logEvery = 500 * time.Millisecond

func (a *app) logs() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs RUN [STEP]",
		Short: "Print what the build's steps wrote, secrets taken out",
		Long: `Prints the log of one step, or of all steps one after the other. With --follow it
goes on until the step, or the build, has ended.`,
		Example: "  sluice logs 12\n  sluice logs 12 unit --follow",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			l := &logReader{a: a, c: c, run: args[0], follow: follow}
			if len(args) == 2 {
				return l.step(cmd.Context(), args[1])
			}
			return l.all(cmd.Context())
		},
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on until it has ended")
	runs, steps := a.runNumbers(), a.stepNames()
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return runs(cmd, args, typed)
		case 1:
			return steps(cmd, args, typed)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

type logReader struct {
	a      *app
	c      *client
	run    string
	follow bool
}

// all prints the steps in the definition's order.
func (l *logReader) all(ctx context.Context) error {
	s, _, err := l.c.status(ctx, l.run)
	if err != nil {
		return err
	}
	for l.follow && len(s.Steps) == 0 && !ended(s) {
		if err := pause(ctx); err != nil {
			return err
		}
		if s, _, err = l.c.status(ctx, l.run); err != nil {
			return err
		}
	}
	if len(s.Steps) == 0 {
		l.a.say("Run %s built nothing: it has no logs.", l.run)
	}
	for _, x := range s.Steps {
		if !l.a.json {
			l.a.say("%s", l.a.paint(l.a.err, bold, "── "+clean(x.Name)+" ──"))
		}
		if err := l.step(ctx, x.Name); err != nil {
			return err
		}
	}
	return nil
}

func (l *logReader) step(ctx context.Context, name string) error {
	if !isRun(l.run) {
		return usage("%q is not the number of a run; sluice runs lists them", l.run)
	}
	for offset, atEnd := int64(0), false; ; {
		var x control.StepLog
		if err := l.c.do(ctx, http.MethodGet, l.c.path("runs/%s/steps/%s/log", l.run, name)+query("offset", strconv.FormatInt(offset, 10)), nil, &x); err != nil {
			return err
		}
		if x.Text != "" {
			if l.a.json {
				if err := l.a.printJSON(map[string]any{"run": l.run, "step": name, "text": x.Text, "offset": offset}); err != nil {
					return err
				}
			} else if _, err := fmt.Fprint(l.a.out, l.a.logText(x.Text)); err != nil {
				return err
			}
		}
		moved := x.Next > offset
		offset = x.Next
		if x.Done || !moved && !l.follow {
			return nil
		}
		if moved {
			continue
		}
		s, _, err := l.c.status(ctx, l.run)
		if err != nil {
			return err
		}
		if atEnd {
			return nil
		}
		atEnd = ended(s) // a run that was aborted may have steps without an end: one more look
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	t := time.NewTimer(logEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return &exit{code: WaitsForPerson}
	case <-t.C:
		return nil
	}
}

// logText is a log as it may be shown: a terminal gets colours and lines, and
// nothing else that would control it.
func (a *app) logText(s string) string {
	if !a.outTTY {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		if m := leading(s); m > 0 {
			if a.colour(a.out) {
				b.WriteString(s[:m])
			}
			s = s[m:]
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		if r != '\n' && r != '\t' && r != '\r' {
			r = visible(r)
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String()
}
