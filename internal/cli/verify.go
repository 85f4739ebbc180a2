package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

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
	var witness, rel, outputs string
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a bundle offline, and name what was altered",
		Long: `Verifies signatures, inclusion in the log, and payloads of a bundle, with no server
and no network. Exit code 1 when anything is not what was signed, with the entry that
was altered; 2 when the file is no bundle.

A bundle's own keys only show that it agrees with itself: give the keys that you know
with --key, and a checkpoint that you kept with --witness, so that a log that was cut
or replaced is noticed. A checkpoint is a file with the signed note, or SIZE:ROOT as
an earlier report shows it.

--outputs DIR writes what checks were answered or printed as files, ENTRY-NAME: only
what is what the entry says. DIR is made, and must not be there yet.`,
		Example: "  sluice evidence verify evidence.json\n  sluice evidence verify evidence.json --outputs said\n  sluice evidence verify evidence.json --key statements:4a5f… --witness 128:2Qm…=",
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
			var kept error
			if outputs != "" {
				if err := os.Mkdir(outputs, 0o755); err != nil {
					return usage("--outputs: %w; name a folder that is not there yet", err)
				}
				o.Output = func(p evidence.Place, b []byte) error {
					kept = keepOutput(outputs, p, b)
					return kept
				}
			}
			r, err := evidence.Verify(f, o)
			if kept != nil {
				return kept
			}
			if err != nil {
				_ = os.Remove(outputs) // it is empty, or was not asked for
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
	f.StringVar(&outputs, "outputs", "", "write what checks were answered into this new folder")
	f.BoolVar(&o.Whole, "whole", false, "refuse anything less than the whole log")
	return c
}

// keepOutput writes one output that is right. Its name comes from a statement.
func keepOutput(dir string, p evidence.Place, b []byte) error {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, p.Name)
	end := ".txt"
	if p.MediaType == "image/png" {
		end = ".png"
	}
	file := filepath.Join(dir, fmt.Sprintf("%d-%s%s", p.Index, name[:min(len(name), 100)], end))
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("couldn't write an output: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("couldn't write %s: %w", file, err)
	}
	return nil
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
