package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/pipeline"
)

func (a *app) replay() *cobra.Command {
	var env, file string
	var set []string
	var limit int
	c := &cobra.Command{
		Use:   "replay SERVICE --env ENV",
		Short: "Judge recorded rollouts again under other settings",
		Long: `Judges the recorded bins of past rollouts again, and says which verdicts would
change, when, and with what consequence: rolled back earlier, later, never, or
although it was fine; held or extended where it went on. Nothing is changed.

Settings are those of analysis in sluice.yaml: --set for single ones, --analysis
for a file with some of its keys. What they don't say stays as it was recorded,
so that without any the verdicts are those that were given. Bins can be joined to
longer ones and not be cut. A recording ends where the rollout did: what a release
that was rolled back would have done later, nobody knows.`,
		Example: "  sluice replay shop --env production --set alpha=0.001,maxExcess=0.5\n  sluice replay shop --env production --set warmUp=60s --json\n  sluice replay shop --env production --analysis stricter.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if env == "" {
				return usage("say where with --env ENV")
			}
			yaml, err := a.changes(set, file)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			if yaml != "" {
				q.Set("analysis", yaml)
			}
			b, err := c.raw(cmd.Context(), http.MethodGet, c.path("services/%s/environments/%s/replay", args[0], env)+"?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(b)
			}
			var out control.Replay
			if err := json.Unmarshal(b, &out); err != nil {
				return fmt.Errorf("couldn't read the server's answer: %w", err)
			}
			return a.printReplay(out)
		},
	}
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "the environment")
	f.StringSliceVar(&set, "set", nil, "settings to judge by, such as alpha=0.001,warmUp=60s")
	f.StringVar(&file, "analysis", "", "file with keys of an analysis to judge by")
	f.IntVar(&limit, "limit", 20, "how many rollouts, the newest first")
	c.ValidArgsFunction = first(a.services())
	return c
}

// changes are the settings to judge by, as YAML. They are checked here too, so
// that the mistake is shown in the file that it stands in.
func (a *app) changes(set []string, file string) (string, error) {
	name, yaml := "--set", ""
	switch {
	case len(set) > 0 && file != "":
		return "", usage("give --set or --analysis, not both")
	case file != "":
		b, err := readDefinition(file)
		if err != nil {
			return "", err
		}
		name, yaml = file, string(b)
	case len(set) > 0:
		var b strings.Builder
		for _, s := range set {
			k, v, ok := strings.Cut(s, "=")
			if k = strings.TrimSpace(k); !ok || k == "" || strings.TrimSpace(v) == "" || strings.ContainsAny(s, "\n:{}[]") {
				return "", usage("--set %q is no setting: write KEY=VALUE, for instance alpha=0.001", s)
			}
			fmt.Fprintf(&b, "%s: %s\n", k, strings.TrimSpace(v))
		}
		yaml = b.String()
	default:
		return "", nil
	}
	if len(yaml) > 16<<10 {
		return "", usage("%s has %d bytes: at most %d are sent; leave out what stays as it was", name, len(yaml), 16<<10)
	}
	if _, problems := pipeline.Overlay(pipeline.Analysis{}, name, []byte(yaml)); problems.Failed() {
		a.show(problems, []byte(yaml))
		return "", usage("%s has %s", name, plural(problems.Count(pipeline.Error), "error"))
	}
	return yaml, nil
}

func (a *app) printReplay(out control.Replay) error {
	err := a.table("ROLLOUT\tRUN\tRELEASE\tSTARTED\tENDED\tRECORDED\tREPLAYED\tCHANGE", func(row func(...string)) {
		for _, r := range out.Rollouts {
			row(r.Rollout, r.Run, r.Release.Short(), ago(r.StartedAt), r.Phase, outcome(r.Recorded), outcome(r.Replayed), strings.ReplaceAll(r.Change, "-", " "))
		}
	})
	if err != nil {
		return err
	}
	for _, r := range out.Rollouts {
		if r.Change != control.ReplaySame && r.Change != control.ReplayNotRecorded {
			fmt.Fprintf(a.out, "\n%s: %s.\n", r.Rollout, prose(r.Sentence))
			if r.Replayed.Sentence != "" {
				fmt.Fprintf(a.out, "  %s\n", prose(r.Replayed.Sentence))
			}
		}
	}
	a.say("%d of %d would have gone otherwise.", out.Changed, len(out.Rollouts))
	return nil
}

func outcome(o control.Outcome) string {
	if o.FailedSeconds != nil {
		return "fail after " + seconds(*o.FailedSeconds)
	}
	if o.Verdict == "" {
		return "–"
	}
	return string(o.Verdict)
}
