package journal_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent/journal"
	"github.com/sluicehq/sluice/internal/release"
)

func entry(g int64) journal.Entry {
	return journal.Entry{
		Time: time.Unix(0, 0).UTC(), Key: release.Key{Project: "p", Service: "s", Environment: "e"},
		Generation: g, Outcome: journal.Applied, Weights: map[release.ID]int{"sha256:x": 10000},
	}
}

func TestAppendAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if got, err := journal.Read(path); err != nil || got != nil {
		t.Fatalf("no file: %v, %v", got, err)
	}
	for g := int64(1); g <= 3; g++ { // each by an agent of its own
		j, err := journal.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(entry(g)); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := journal.Read(path)
	if err != nil || len(got) != 3 || got[2].Generation != 3 || got[0].Weights["sha256:x"] != 10000 {
		t.Fatalf("%+v, %v", got, err)
	}
}

// A crash may leave any beginning of a line. It is no entry, and the next entry
// does not get stuck to it.
func TestTornLine(t *testing.T) {
	line, _ := json.Marshal(entry(2))
	for n := range len(line) {
		path := filepath.Join(t.TempDir(), "j")
		j, err := journal.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(entry(1)); err != nil {
			t.Fatal(err)
		}
		_ = j.Close()
		f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		_, _ = f.Write(line[:n])
		_ = f.Close()
		if got, err := journal.Read(path); err != nil || len(got) != 1 {
			t.Fatalf("%d bytes: %+v, %v", n, got, err)
		}
		if j, err = journal.Open(path); err != nil {
			t.Fatal(err)
		}
		if err := j.Append(entry(3)); err != nil {
			t.Fatal(err)
		}
		_ = j.Close()
		if got, err := journal.Read(path); err != nil || len(got) != 2 || got[1].Generation != 3 {
			t.Fatalf("%d bytes: %+v, %v", n, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	line, _ := json.Marshal(entry(1))
	f.Add(append(line, '\n'))
	f.Add([]byte("{}\n{}"))
	f.Add(bytes.Repeat([]byte("x"), 70<<10))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := journal.Parse(bytes.NewReader(in))
		if err == nil && len(got) != bytes.Count(in, []byte("\n")) {
			t.Errorf("%d entries of %d lines", len(got), bytes.Count(in, []byte("\n")))
		}
	})
}
