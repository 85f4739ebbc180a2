package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	entry := int64(-1)
	c := &cobra.Command{
		Use: "show", Short: "List signed statements, oldest first",
		Long: `Lists signed statements, oldest first. With --entry it shows all that one of them
says, and what the check that it is about was answered or printed.`,
		Example: "  sluice evidence show --run 12\n  sluice evidence show --release 9f86d081884c --env production --json\n  sluice evidence show --entry 31", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			one := cmd.Flags().Changed("entry")
			switch {
			case one && entry < 0:
				return usage("--entry wants the index of an entry, from 0")
			case one && runID+rel+env != "":
				return usage("--entry is one entry: leave out --run, --release and --env")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if one {
				return a.showEntry(ctx, c, entry)
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
	f.Int64Var(&entry, "entry", 0, "all of this entry, with what its check was answered")
	complete(c, "run", a.runNumbers())
	complete(c, "release", a.releases())
	complete(c, "env", a.environments())
	return c
}

// showEntry shows one statement, and below it what a check left. A picture is
// named by its size: evidence export and verify --outputs write it as a file.
func (a *app) showEntry(ctx context.Context, c *client, entry int64) error {
	at := c.path("evidence/entries/%s", strconv.FormatInt(entry, 10))
	b, err := c.raw(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	if a.json {
		return a.printRaw(b)
	}
	var s httpapi.Statement
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("couldn't read the server's answer: %w", err)
	}
	var says bytes.Buffer
	if err := json.Indent(&says, s.Predicate, "", "  "); err != nil {
		return fmt.Errorf("couldn't read what entry %d says: %w", entry, err)
	}
	fmt.Fprintf(a.out, "entry %d, %s, %s, about %s\n%s\n", entry, s.At.Local().Format("2006-01-02 15:04:05"), clean(s.PredicateType), s.Subject.Short(), text(says.Bytes()))
	for _, o := range s.Outputs {
		res, err := c.send(ctx, http.MethodGet, at+"/output"+query("name", o.Name), nil, nil)
		if err != nil {
			a.say("%s: %v", clean(o.Name), err)
			continue
		}
		content, err := io.ReadAll(io.LimitReader(res.Body, evidence.MaxOutput))
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return fmt.Errorf("couldn't read %s: %w", o.Name, err)
		}
		if o.MediaType != "text/plain" {
			fmt.Fprintf(a.out, "\n%s: %s of %s\n", clean(o.Name), bytesOf(int64(len(content))), clean(o.MediaType))
			continue
		}
		fmt.Fprintf(a.out, "\n%s:\n%s\n", clean(o.Name), strings.TrimSuffix(text(content), "\n"))
	}
	return nil
}

// text is what others wrote, in lines, without what would control a terminal.
func text(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return visible(r)
	}, string(b))
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
	var bare bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Write one bundle with statements, proofs and keys",
		Long: `Writes what is proven about a release, or about everything, as one file that
"sluice evidence verify" checks offline. The file appears whole or not at all, and
is verified before it appears. "-o -" writes to standard output.

What hooks and checks were answered or printed, and the pictures of pages, are in
it: up to 8 MiB each and 64 MiB in all, the newest first; "verify" names what is
left out. Without them (--without-outputs) an earlier sluice reads the bundle too.`,
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
			outputs := ""
			if bare {
				outputs = "none"
			}
			res, err := c.send(ctx, http.MethodGet, c.path("evidence/bundle")+query("release", rel, "outputs", outputs), nil, nil)
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
	c.Flags().BoolVar(&bare, "without-outputs", false, "leave out what checks were answered or printed")
	complete(c, "release", a.releases())
	return c
}
