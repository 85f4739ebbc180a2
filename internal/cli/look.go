package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
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
			s.put(p[0], prose(p[1]))
		}
	}
	label := "bake"
	for _, line := range foretold(x.Forecast) {
		s.put(label, line)
		label = ""
	}
	label = "you can"
	for _, c := range x.Choices {
		if line := c.Line(); line != "" {
			s.put(label, clean(line))
			if c.Text != "" {
				sheet{a: a, w: a.out, label: 2, indent: 9}.put("", prose(c.Text))
			}
		} else {
			s.put(label, prose(c.Text))
		}
		label = ""
	}
}
