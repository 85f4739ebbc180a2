package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/httpapi"
	"github.com/sluicehq/sluice/internal/release"
)

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func (a *app) evidence() *cobra.Command {
	c := &cobra.Command{
		Use: "evidence", Short: "Show, export and verify what is proven about releases",
		Example: "  sluice evidence export -o evidence.json\n  sluice evidence verify evidence.json",
	}
	c.AddCommand(a.evidenceShow(), a.evidenceExport(), a.evidenceVerify())
	return needsVerb(c)
}

func (a *app) evidenceShow() *cobra.Command {
	var runID, rel, env string
	c := &cobra.Command{
		Use: "show", Short: "List signed statements, oldest first",
		Example: "  sluice evidence show --run 12\n  sluice evidence show --release 9f86d081884c --env production --json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.connect()
			if err != nil {
				return err
			}
			if rel != "" {
				var x httpapi.Release
				if err := c.do(ctx, http.MethodGet, c.path("releases/%s", rel), nil, &x); err != nil {
					return err
				}
				rel = string(x.Release)
			}
			b, err := c.raw(ctx, http.MethodGet, c.path("evidence")+query("run", runID, "release", rel, "environment", env), nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printRaw(b)
			}
			var list []httpapi.Statement
			if err := json.Unmarshal(b, &list); err != nil {
				return fmt.Errorf("couldn't read the server's answer: %w", err)
			}
			if len(list) == 0 {
				a.say("There are no statements about that.")
				return nil
			}
			return a.table("ENTRY\tAT\tRUN\tWHERE\tWHAT", func(row func(...string)) {
				for _, s := range list {
					index := "…"
					if s.Index != nil {
						index = strconv.FormatInt(*s.Index, 10)
					}
					row(index, s.At.Local().Format("01-02 15:04:05"), s.Run, s.Environment, statementLine(s))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&runID, "run", "", "of this run")
	f.StringVar(&rel, "release", "", "about this release")
	f.StringVarP(&env, "env", "e", "", "of this environment")
	complete(c, "run", a.runNumbers())
	complete(c, "release", a.releases())
	complete(c, "env", a.environments())
	return c
}

// statementLine says in short what a statement says: its kind, and the words
// among its fields that tell the most.
func statementLine(s httpapi.Statement) string {
	kind := strings.TrimPrefix(strings.TrimPrefix(s.PredicateType, "https://"), "sluice.dev/")
	if i := strings.LastIndex(kind, "/v"); i > 0 {
		kind = kind[:i]
	}
	kind = path.Base(kind)
	var p map[string]any
	if json.Unmarshal(s.Predicate, &p) != nil {
		return kind
	}
	for _, k := range []string{"gate", "kind", "stage", "command", "flag", "decision", "change", "verdict", "result", "answer", "sluice_step", "from", "to", "cause", "reason"} {
		v, ok := p[k].(string)
		if !ok || v == "" {
			continue
		}
		if _, err := release.ParseDigest(v); err == nil {
			v = shorten(v)
		}
		if k == "to" {
			v = "→ " + v
		}
		kind += " " + v
	}
	return kind
}

func (a *app) evidenceExport() *cobra.Command {
	var rel, out string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write one bundle with statements, proofs and keys",
		Long: `Writes what is proven about a release, or about everything, as one file that
"sluice evidence verify" checks offline. The file appears whole or not at all, and
is verified before it appears. "-o -" writes to standard output.`,
		Example: "  sluice evidence export -o evidence.json\n  sluice evidence export --release 9f86d081884c",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.connect()
			if err != nil {
				return err
			}
			if out == "" {
				out = "evidence.json"
				if rel != "" {
					out = "evidence-" + shorten(rel) + ".json"
				}
			}
			if out == "-" && a.json {
				return usage("-o - and --json both want standard output; give a file with -o")
			}
			res, err := c.send(ctx, http.MethodGet, c.path("evidence/bundle")+query("release", rel), nil, nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			var size int64
			var report evidence.Report
			write := func(f *os.File) error {
				if size, err = io.Copy(f, res.Body); err != nil {
					return fmt.Errorf("couldn't read the whole bundle: %w; nothing was written, try again", err)
				}
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					return fmt.Errorf("couldn't read the bundle back: %w", err)
				}
				report, err = evidence.Verify(f, evidence.VerifyOptions{Project: c.project})
				if err != nil {
					return fmt.Errorf("the server sent no bundle: %w", err)
				}
				return nil
			}
			if out == "-" {
				f, err := os.CreateTemp("", "sluice-bundle-")
				if err != nil {
					return fmt.Errorf("couldn't keep the bundle: %w", err)
				}
				defer f.Close()
				defer os.Remove(f.Name())
				if err := write(f); err != nil {
					return err
				}
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					return fmt.Errorf("couldn't read the bundle back: %w", err)
				}
				if _, err := io.Copy(a.out, f); err != nil {
					return fmt.Errorf("couldn't write the bundle: %w", err)
				}
			} else if err := atomically(out, write); err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(map[string]any{"file": out, "bytes": size, "statements": report.Statements, "verified": report.Verified, "ok": report.OK, "checkpoint": report.Checkpoint})
			} else if out == "-" {
				a.say("%s, %d verified", plural(report.Statements, "statement"), report.Verified)
			} else {
				_, err = fmt.Fprintln(a.out, out)
				a.say("%s, %d verified, %s", plural(report.Statements, "statement"), report.Verified, bytesOf(size))
			}
			if err == nil && !report.OK {
				return &exit{code: Failed, err: fmt.Errorf("the bundle does not verify: sluice evidence verify %s says what is wrong", out)}
			}
			return err
		},
	}
	c.Flags().StringVar(&rel, "release", "", "only what is about this release")
	c.Flags().StringVarP(&out, "output", "o", "", "file, default evidence.json; - for standard output")
	complete(c, "release", a.releases())
	return c
}

func keyRefs(texts []string) ([]evidence.KeyRef, error) {
	var out []evidence.KeyRef
	for _, t := range texts {
		k, err := evidence.ParseKeyRef(t)
		if err != nil {
			return nil, usage("--key: %w", err)
		}
		out = append(out, k)
	}
	return out, nil
}

func (a *app) evidenceVerify() *cobra.Command {
	var keys []string
	var o evidence.VerifyOptions
	var witness, rel string
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a bundle offline, and name what was altered",
		Long: `Verifies signatures, inclusion in the log, and payloads of a bundle, with no server
and no network. Exit code 1 when anything is not what was signed, with the entry that
was altered; 2 when the file is no bundle.

A bundle's own keys only show that it agrees with itself: give the keys that you know
with --key, and a checkpoint that you kept with --witness, so that a log that was cut
or replaced is noticed. A checkpoint is a file with the signed note, or SIZE:ROOT as
an earlier report shows it.`,
		Example: "  sluice evidence verify evidence.json\n  sluice evidence verify evidence.json --key statements:4a5f… --witness 128:2Qm…=",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			if o.TrustedKeys, err = keyRefs(keys); err != nil {
				return err
			}
			if rel != "" {
				if o.Release, err = release.ParseDigest(rel); err != nil {
					return usage("--release: %w", err)
				}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usage("couldn't read the bundle: %w; sluice evidence export -o FILE writes one", err)
			}
			defer f.Close()
			if witness != "" {
				if o.MinCheckpoint, err = readWitness(witness, f); err != nil {
					return err
				}
			}
			r, err := evidence.Verify(f, o)
			if err != nil {
				return usage("%s: %w; sluice evidence export writes one", args[0], err)
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				err = r.WriteText(a.out)
			}
			if err == nil && !r.OK {
				return &exit{code: Failed}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringArrayVar(&keys, "key", nil, "trust only this key, PURPOSE:HEX (repeatable)")
	f.StringVar(&witness, "witness", "", "a checkpoint that was kept: a file, or SIZE:ROOT")
	f.StringVar(&o.Project, "of-project", "", "the log must be of this project")
	f.StringVar(&rel, "release", "", "the bundle must be about this release (whole digest)")
	f.BoolVar(&o.Whole, "whole", false, "refuse anything less than the whole log")
	return c
}

// readWitness reads a checkpoint that was kept. SIZE:ROOT has no origin: it is
// that of the bundle, which the first verification reads.
func readWitness(text string, bundle *os.File) (*evidence.Checkpoint, error) {
	if size, root, ok := strings.Cut(text, ":"); ok {
		n, err := strconv.ParseUint(size, 10, 63)
		if err == nil {
			c := evidence.Checkpoint{Size: n}
			if err := c.Root.UnmarshalText([]byte(root)); err != nil {
				return nil, usage("--witness: %w", err)
			}
			first, err := evidence.Verify(bundle, evidence.VerifyOptions{})
			if err != nil {
				return nil, usage("couldn't verify %s: %w", bundle.Name(), err)
			}
			if _, err := bundle.Seek(0, io.SeekStart); err != nil {
				return nil, usage("couldn't read the bundle twice: %w", err)
			}
			c.Origin = first.Checkpoint.Origin
			return &c, nil
		}
	}
	b, err := os.ReadFile(text)
	if err != nil {
		return nil, usage("--witness is neither SIZE:ROOT nor a file with a checkpoint: %w", err)
	}
	c, err := evidence.ParseCheckpoint(b)
	if err != nil {
		return nil, usage("--witness: %w", err)
	}
	return &c, nil
}
