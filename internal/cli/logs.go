package cli

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/run"
)

// logEvery is how often a running step's log is read.
const logEvery = 500 * time.Millisecond

func (a *app) logs() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "logs RUN [STEP]",
		Short: "Print what the build's steps wrote, secrets taken out",
		Long: `Prints the log of one step, or of all steps one after the other; of a build that was
reused, the run that has them. With --follow it goes on until the step, or the build,
has ended. With --json it prints one document with all steps; with --follow too, one
line for each piece that was written.`,
		Example: "  sluice logs 12\n  sluice logs 12 unit --follow",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			l := &logReader{a: a, c: c, run: args[0], follow: follow}
			return l.print(cmd.Context(), args[1:])
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
	doc    *logDocument // what --json prints at the end; nil: as it comes
	whole  strings.Builder
}

// logDocument is what steps wrote, as logs --json prints it.
type logDocument struct {
	Run   string        `json:"run"`
	Steps []stepLogText `json:"steps"`
}

type stepLogText struct {
	Step       string `json:"step"`
	State      string `json:"state,omitempty"`
	ReusedFrom string `json:"reusedFrom,omitempty"` // the run that has the log
	Text       string `json:"text"`
}

// logLine is a piece of a log, as logs --follow --json prints it.
type logLine struct {
	Run        string `json:"run"`
	Step       string `json:"step"`
	ReusedFrom string `json:"reusedFrom,omitempty"`
	Text       string `json:"text"`
	Offset     int64  `json:"offset"`
}

// print prints the log of the step that is named, else of all of them in the
// definition's order.
func (l *logReader) print(ctx context.Context, name []string) error {
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
	steps := s.Steps
	if len(name) > 0 {
		steps = []run.Step{{Name: name[0]}} // a step, or ENVIRONMENT.CHECK
		for _, x := range s.Steps {
			if x.Name == name[0] {
				steps[0] = x
			}
		}
	} else if len(steps) == 0 {
		l.a.say("Run %s built nothing: it has no logs.", l.run)
	}
	if l.a.json && !l.follow {
		l.doc = &logDocument{Run: s.Run, Steps: []stepLogText{}}
	}
	for _, x := range steps {
		if !l.a.json && len(name) == 0 {
			l.a.say("%s", l.a.paint(l.a.err, bold, "── "+clean(x.Name)+" ──"))
		}
		if err := l.step(ctx, x, s.ReusedFrom); err != nil {
			return err
		}
	}
	if l.doc != nil {
		return l.a.printJSON(l.doc)
	}
	return nil
}

// step prints the log of one step; where its build was reused, the run that has it.
func (l *logReader) step(ctx context.Context, x run.Step, from string) error {
	if x.State != "reused" {
		from = ""
	}
	if l.doc != nil {
		l.doc.Steps = append(l.doc.Steps, stepLogText{Step: x.Name, State: x.State, ReusedFrom: from})
	}
	switch {
	case from == "":
		l.whole.Reset()
		err := l.read(ctx, x.Name)
		if l.doc != nil {
			l.doc.Steps[len(l.doc.Steps)-1].Text = l.whole.String()
		}
		return err
	case l.doc != nil:
		return nil
	case l.a.json:
		return l.a.printLine(logLine{Run: l.run, Step: x.Name, ReusedFrom: from})
	}
	l.a.say("reused from run %s: sluice logs %s %s", clean(from), clean(from), clean(x.Name))
	return nil
}

// text prints a piece of a log.
func (l *logReader) text(step, text string, offset int64) error {
	switch {
	case text == "":
		return nil
	case l.doc != nil:
		l.whole.WriteString(text)
		return nil
	case l.a.json:
		return l.a.printLine(logLine{Run: l.run, Step: step, Text: text, Offset: offset})
	}
	_, err := fmt.Fprint(l.a.out, l.a.logText(text))
	return err
}

func (l *logReader) read(ctx context.Context, name string) error {
	for offset, atEnd := int64(0), false; ; {
		var x control.StepLog
		if err := l.c.do(ctx, http.MethodGet, l.c.path("runs/%s/steps/%s/log", l.run, name)+query("offset", strconv.FormatInt(offset, 10)), nil, &x); err != nil {
			return err
		}
		if err := l.text(name, x.Text, offset); err != nil {
			return err
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
