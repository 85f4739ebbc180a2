package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
)

func (a *app) advise() *cobra.Command {
	var file, env, answersFile string
	c := &cobra.Command{
		Use:   "advise",
		Short: "Recommend a rollout strategy, and say why",
		Long: `Recommends a strategy, its steps and bakes, and what a failure shall do, from what a
bad release costs, traffic, capacity, downtime, rollback, compliance and state; says
why, what it costs, what was refused and why, and prints the YAML to paste.

Answers come from a file (--answers) or from flags; without either it asks, on a
terminal. What nobody answers is as the defaults say. Instances are read from the
definition, where there is one.`,
		Example: "  sluice advise\n  sluice advise --risk critical --rps 120 --baseline-rate 0.2\n  sluice advise --answers answers.yaml --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			known := pipeline.DefaultAnswers
			given := map[string]bool{} // by the definition
			asked := a.interactive() && answersFile == ""
			if err := a.fromDefinition(cmd, file, env, &known, given); err != nil {
				return err
			}
			if answersFile != "" {
				src, err := readDefinition(answersFile)
				if err != nil {
					return err
				}
				read, problems := pipeline.ParseAnswers(answersFile, src, known)
				if problems.Failed() {
					a.show(problems, src)
					return usage("%s has %s; mend them, then try again", answersFile, plural(problems.Count(pipeline.Error), "error"))
				}
				known = read
			}
			for _, q := range pipeline.Questions {
				f := cmd.Flags().Lookup(flagOf(q.Key))
				if !f.Changed {
					continue
				}
				var err error
				if known, err = pipeline.Answer(known, q.Key, f.Value.String()); err != nil {
					return usage("--%s: %w", flagOf(q.Key), err)
				}
				asked = false
			}
			if asked {
				var err error
				if known, err = a.question(cmd.Context(), known, given); err != nil {
					return err
				}
			}
			if known.Worker && known.RPS > 0 {
				return usage("a worker gets no requests, so that --rps says nothing; leave one of the two out")
			}
			advice, err := preview.Advise(known)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(advice)
			}
			a.printAdvice(advice)
			return nil
		},
	}
	a.fileFlag(c, &file)
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "the environment of the definition that is meant")
	f.StringVar(&answersFile, "answers", "", "file with answers (YAML)")
	for _, q := range pipeline.Questions {
		text := strings.ToLower(q.Text[:1]) + q.Text[1:]
		if q.Words != nil {
			text += " (" + strings.Join(q.Words, ", ") + ")"
		}
		f.String(flagOf(q.Key), q.Default, text)
		if q.Words != nil {
			complete(c, flagOf(q.Key), fixed(cobra.ShellCompDirectiveNoFileComp, q.Words...))
		}
		if slices.Equal(q.Words, []string{"true", "false"}) {
			f.Lookup(flagOf(q.Key)).NoOptDefVal = "true"
		}
	}
	return c
}

// flagOf is an answer's key as a flag: user-facing for userFacing.
func flagOf(key string) string {
	if key == "rps" {
		return key
	}
	var b strings.Builder
	for _, r := range key {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('-')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// fromDefinition takes from a definition what it answers: how many instances run
// and whether they are workers. Without --file there need not be one.
func (a *app) fromDefinition(cmd *cobra.Command, file, env string, known *pipeline.Answers, given map[string]bool) error {
	src, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("file") && env == "" {
		return nil
	}
	if err != nil {
		return usage("couldn't read the definition: %w", err)
	}
	def, problems := parse(file, src)
	if problems.Failed() {
		a.show(problems, src)
		return usage("%s has %s; mend them, then try again", file, plural(problems.Count(pipeline.Error), "error"))
	}
	e := def.Environments[len(def.Environments)-1]
	if env != "" {
		var ok bool
		if e, ok = def.Environment(env); !ok {
			return usage("%s has no environment %q; it has %s", file, env, environmentNames(def))
		}
	}
	known.Instances, known.Worker = e.Target.Instances*len(e.Target.Hosts), e.Target.Worker()
	given["instances"], given["worker"] = true, true
	if known.Worker || given["rps"] || cmd.Flags().Changed("rps") {
		return nil
	}
	if t, ok := a.measured(cmd.Context(), def.Service, e.Name); ok {
		known.RPS, given["rps"] = t.RPS, true
		if !given["baselineRate"] && !cmd.Flags().Changed("baseline-rate") {
			known.BaselineRate, given["baselineRate"] = 100*t.BaselineRate, true
		}
		a.say("%s", measuredWords(t, e.Name))
	}
	return nil
}

// question asks for what is still open; an empty line takes the default.
func (a *app) question(ctx context.Context, known pipeline.Answers, given map[string]bool) (pipeline.Answers, error) {
	for _, q := range pipeline.Questions {
		if given[q.Key] || known.Worker && (q.Key == "rps" || q.Key == "baselineRate") {
			continue
		}
		for {
			words := ""
			if q.Words != nil {
				words = strings.Join(q.Words, " / ") + ", "
			}
			said, err := a.answer(ctx, q.Text+" ["+words+"Enter: "+q.Default+"]")
			if err != nil {
				return known, err
			}
			if said == "" {
				break
			}
			next, err := pipeline.Answer(known, q.Key, said)
			if err == nil {
				known = next
				break
			}
			a.say("%s", clean(err.Error()))
		}
	}
	return known, nil
}

// printAdvice writes an advice for people.
func (a *app) printAdvice(v preview.Advice) {
	s := sheet{a: a, w: a.out, label: 12, indent: 0}
	s.put("advice", a.paint(a.out, bold, v.Strategy)+", safe action "+v.OnFail)
	if v.Conflict != "" {
		s.put("but", prose(v.Conflict))
	}
	label := "why"
	for _, w := range v.Why {
		s.put(label, prose(w))
		label = ""
	}
	label = "costs"
	if v.Seconds > 0 {
		s.put(label, seconds(v.Seconds)+" of bakes to 100 %, when nothing is extended")
		label = ""
	}
	s.put(label, prose(v.Capacity))
	a.printSteps(s, v.Steps)
	options := func(label string, list []preview.Option) {
		for _, o := range list {
			s.hang(label, prose(o.Strategy+": "+o.Why), 2)
			label = ""
		}
	}
	options("also good", v.Alternatives)
	options("refused", v.Refused)
	label = "also do"
	for _, w := range v.Watch {
		s.hang(label, prose(w), 2)
		label = ""
	}
	fmt.Fprint(a.out, "\n"+v.YAML)
}
