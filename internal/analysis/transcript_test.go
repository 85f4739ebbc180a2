package analysis

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestTranscripts plays the stories of testdata/*.txt. A story is lines of
// commands; every "?" is followed by what the judge says at that moment:
//
//	set KEY VALUE       phi, maxExcess (percentage points)
//	start NAME [BAD TOTAL | first]
//	[N*] bin|warm|alone|cold KC NC [KB NB]
//	step
//	restart             through JSON and back
//	?
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("the judge says now:\n%s", got)
			}
		})
	}
}

func play(t *testing.T, story string) string {
	t.Helper()
	s := Defaults()
	var r Rate
	var out strings.Builder
	for line := range strings.Lines(story) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // an answer
		}
		fmt.Fprintln(&out, line)
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		times := 1
		if n, ok := strings.CutSuffix(f[0], "*"); ok {
			times, f = int(integer(t, n)), f[1:]
		}
		for range times {
			switch f[0] {
			case "set":
				set(t, &s, f[1], f[2])
			case "start":
				var z Frozen
				if len(f) == 4 {
					z = Frozen{Bad: integer(t, f[2]), Total: integer(t, f[3])}
				} else if len(f) == 3 {
					z.First = true
				}
				r = NewRate(f[1], s, 1, z)
			case "bin", "warm", "alone", "cold":
				b := Bin{KC: integer(t, f[1]), NC: integer(t, f[2])}
				if len(f) == 5 {
					b.KB, b.NB = integer(t, f[3]), integer(t, f[4])
				}
				r.Add(b, map[string]BinKind{"bin": Judged, "warm": WarmUp, "alone": Alone, "cold": WarmUp | Alone}[f[0]])
			case "step":
				r.StartStep()
			case "restart":
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				r = Rate{}
				if err := json.Unmarshal(b, &r); err != nil {
					t.Fatal(err)
				}
			case "?":
				m := r.Result()
				fmt.Fprintf(&out, "  %s (%s, bin %d): %s\n", m.Verdict, m.Basis, m.DecidedAtBin, m.Sentence)
				fmt.Fprintf(&out, "  logFail %.2f logPass %.2f bound %.4f detectable %.4f\n", m.LogFail, m.LogPass, m.Bound, m.Detectable)
			default:
				t.Fatalf("unknown command: %s", line)
			}
		}
	}
	return out.String()
}

func integer(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func set(t *testing.T, s *Settings, key, value string) {
	t.Helper()
	x, err := strconv.ParseFloat(value, 64)
	if err != nil {
		t.Fatal(err)
	}
	switch key {
	case "phi":
		s.Phi = x
	case "maxExcess":
		s.MaxExcess = x / 100
	default:
		t.Fatalf("unknown setting: %s", key)
	}
}
