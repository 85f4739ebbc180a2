package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/server"
	"github.com/sluicehq/sluice/internal/verdict"
)

const definitionFile = "sluice.yaml"

// maxDefinition bounds how much of a file is read; pipeline.Parse refuses 1 MiB.
const maxDefinition = 2 << 20

func readDefinition(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("there is no file %s; name it with --file, or write one: sluice init", path)
	}
	if err != nil {
		return nil, usage("couldn't read the definition: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxDefinition))
	if err != nil {
		return nil, usage("couldn't read the definition: %w", err)
	}
	return src, nil
}

func parse(path string, src []byte, platform ...pipeline.Platform) (pipeline.Definition, pipeline.Problems) {
	return pipeline.Parse(path, src, server.ParseOptions(platform...)...)
}

// platformFlag lets a command read a platform's file.
func (a *app) platformFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "platform", "", "the platform's file, whose rollout standards services may name")
	complete(c, "platform", fixed(cobra.ShellCompDirectiveFilterFileExt, "yaml", "yml"))
}

// platform reads a platform's file; none of no name.
func (a *app) platform(path string) ([]pipeline.Platform, error) {
	if path == "" {
		return nil, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, usage("there is no platform file %s; correct --platform, or leave it out", path)
	}
	src, err := readDefinition(path)
	if err != nil {
		return nil, err
	}
	p, problems := pipeline.ParsePlatform(path, src, server.ParseOptions()...)
	if problems.Failed() {
		a.show(problems, src)
		return nil, usage("%s has %s; mend them, then try again", path, plural(problems.Count(pipeline.Error), "error"))
	}
	return []pipeline.Platform{p}, nil
}

// show renders problems on standard error, with the lines that they are about.
func (a *app) show(problems pipeline.Problems, src []byte) {
	fmt.Fprint(a.err, problems.Render(src, a.colour(a.err)))
}

// load parses a definition and shows what is wrong with it; warnings only where
// they were asked for.
func (a *app) load(path, platformFile string) (pipeline.Definition, []byte, error) {
	platform, err := a.platform(platformFile)
	if err != nil {
		return pipeline.Definition{}, nil, err
	}
	src, err := readDefinition(path)
	if err != nil {
		return pipeline.Definition{}, nil, err
	}
	def, problems := parse(path, src, platform...)
	if problems.Failed() {
		a.show(problems, src)
		return def, src, usage("%s has %s; mend them, then try again", path, plural(problems.Count(pipeline.Error), "error"))
	}
	return def, src, nil
}

func plural(n int, what string) string { return oneOr(n, what, what+"s") }

func oneOr(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (a *app) lint() *cobra.Command {
	var file, platformFile string
	c := &cobra.Command{
		Use:   "lint",
		Short: "Check sluice.yaml: all problems at once, with the mend",
		Long: `Checks a definition as the server will: every error at once with its line, a
caret and the mend, and warnings about what is allowed and probably a mistake.
Exit code 2 when there is an error, 0 with warnings only.`,
		Example: "  sluice lint\n  sluice lint --file services/checkout/sluice.yaml --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			platform, err := a.platform(platformFile)
			if err != nil {
				return err
			}
			src, err := readDefinition(file)
			if err != nil {
				return err
			}
			_, problems := parse(file, src, platform...)
			errs, warnings, notes := problems.Count(pipeline.Error), problems.Count(pipeline.Warning), problems.Count(pipeline.Note)
			if a.json {
				err = a.printJSON(lintReport{File: file, OK: errs == 0, Errors: errs, Warnings: warnings, Notes: notes, Problems: append(pipeline.Problems{}, problems...)})
			} else {
				_, err = fmt.Fprint(a.out, problems.Render(src, a.colour(a.out)))
				a.say("%s: %s, %s, %s", file, plural(errs, "error"), plural(warnings, "warning"), plural(notes, "note"))
			}
			if err == nil && errs > 0 {
				return &exit{code: Usage}
			}
			return err
		},
	}
	a.fileFlag(c, &file)
	a.platformFlag(c, &platformFile)
	return c
}

// lintReport is the document of lint --json.
type lintReport struct {
	File     string            `json:"file"`
	OK       bool              `json:"ok"`
	Errors   int               `json:"errors"`
	Warnings int               `json:"warnings"`
	Notes    int               `json:"notes"`
	Problems pipeline.Problems `json:"problems"`
}

func (a *app) fileFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "file", "f", definitionFile, "the definition")
	complete(c, "file", fixed(cobra.ShellCompDirectiveFilterFileExt, "yaml", "yml"))
}

func (a *app) plan() *cobra.Command {
	var file, env, platformFile string
	var mermaid bool
	var rps, baseline float64
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what a release would go through, before anything moves",
		Long: `Shows the steps of the build with the risk that each removes, and for every
environment its gates, approval, weights, bakes and checks, what a first release
does, and how a release is taken back. It says what each bake can see at the traffic
of --rps, or else at what a running server measured in the last environment,
when a healthy release passes, and how likely a bake is to be extended.`,
		Example: "  sluice plan --rps 40 --baseline-rate 0.2\n  sluice plan --env production --json\n  sluice plan --mermaid > pipeline.mmd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(rps >= 0 && rps <= 1e7) {
				return usage("--rps is %v; it is requests per second, from 0 to 10 million", rps)
			}
			if !(baseline >= 0 && baseline < 100) {
				return usage("--baseline-rate is %v; it is percent of requests, from 0 to below 100", baseline)
			}
			def, _, err := a.load(file, platformFile)
			if err != nil {
				return err
			}
			if env != "" {
				e, ok := def.Environment(env)
				if !ok {
					return usage("%s has no environment %q; it has %s", file, env, environmentNames(def))
				}
				def.Environments = []pipeline.Environment{e}
				if mermaid {
					def.Environments[0].After = nil
				}
			}
			if mermaid && !a.json {
				_, err = io.WriteString(a.out, pipeline.Mermaid(def))
				return err
			}
			traffic, where := preview.Traffic{RPS: rps, BaselineRate: baseline / 100}, ""
			if !cmd.Flags().Changed("rps") {
				last := def.Environments[len(def.Environments)-1].Name
				if t, ok := a.measured(cmd.Context(), def.Service, last); ok {
					traffic.RPS, where = t.RPS, last
					if !cmd.Flags().Changed("baseline-rate") {
						traffic.BaselineRate = t.BaselineRate
					}
				}
			}
			p, err := preview.Of(def, traffic)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					preview.Preview
					Mermaid string `json:"mermaid"`
				}{p, pipeline.Mermaid(def)})
			}
			a.printPlan(p)
			if where != "" {
				a.say("\n%s", measuredWords(traffic, where))
			}
			return nil
		},
	}
	a.fileFlag(c, &file)
	a.platformFlag(c, &platformFile)
	f := c.Flags()
	f.StringVarP(&env, "env", "e", "", "only this environment")
	f.Float64Var(&rps, "rps", 0, "requests per second, to foretell what bakes can see; default: as measured")
	f.Float64Var(&baseline, "baseline-rate", 0.1, "percent of requests that fail today")
	f.BoolVar(&mermaid, "mermaid", false, "print a Mermaid flowchart")
	complete(c, "env", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		src, err := readDefinition(file)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		def, _ := parse(file, src)
		var out []string
		for _, e := range def.Environments {
			out = append(out, e.Name)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
	return c
}

func environmentNames(d pipeline.Definition) string {
	s := ""
	for i, e := range d.Environments {
		if i > 0 {
			s += ", "
		}
		s += e.Name
	}
	return s
}

func (a *app) judge() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "judge",
		Short: "Judge recorded samples, without a server",
		Long: `Judges counts or points of a canary and its baseline as a rollout would, from a
file; "-" reads standard input. Its form:

  {"metrics": [{"name": "http-errors", "kind": "rate",
                "bins": [[badCanary, allCanary, badBaseline, allBaseline], …]}],
   "options": {"maxExcess": 1, "warmUpSeconds": 0}}

Kinds are rate, latency (slow instead of bad), limit, and points with "control"
and "canary" instead of bins. Options are alpha, beta, r0, rMax, maxExcess, minBad,
minEvents, binSeconds, warmUpSeconds, phi, seed, and judge: sequential or kayenta.

Exit codes: 0 pass, 1 fail, 4 inconclusive or no-data (a rollout would wait), 2
when the file is not usable.`,
		Example: "  sluice judge --file samples.json\n  sluice judge --file - --json < samples.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if file == "" {
				return usage("name the samples with --file; - reads standard input")
			}
			in := a.in
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return usage("couldn't read the samples: %w", err)
				}
				defer f.Close()
				in = f
			}
			r, err := analysis.JudgeFile(in)
			if err != nil {
				return usage("%w", err)
			}
			if a.json {
				if err := a.printJSON(r); err != nil {
					return err
				}
			} else {
				a.printReport(r)
			}
			switch r.Verdict {
			case verdict.Pass:
				return nil
			case verdict.Fail:
				return &exit{code: Failed}
			}
			return &exit{code: WaitsForPerson}
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "the samples (JSON), - for standard input")
	return c
}

func (a *app) printReport(r analysis.Report) {
	score := ""
	if r.Score != nil {
		score = fmt.Sprintf("  score %.2f", *r.Score)
	}
	fmt.Fprintf(a.out, "verdict %s%s\n", a.state(a.out, string(r.Verdict)), score)
	s := sheet{a: a, w: a.out, label: 2}
	for _, m := range r.Metrics {
		class := ""
		if m.Classification != "" {
			class = " (" + m.Classification + ")"
		}
		fmt.Fprintf(a.out, "\n%s  %s%s, basis %s\n", clean(m.Name), a.state(a.out, string(m.Verdict)), clean(class), m.Basis)
		s.put("", prose(m.Sentence))
	}
}
