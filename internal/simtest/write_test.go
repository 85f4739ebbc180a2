package simtest

import (
	"os"
	"strings"
	"testing"
)

const page = "../../docs/simulation.md"

// write replaces one generated part of docs/simulation.md.
func write(t *testing.T, part, text string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+part+": generated -->\n", "<!-- "+part+": end -->"
	head, rest, ok := strings.Cut(string(b), begin)
	_, foot, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part %s", page, part)
	}
	if err := os.WriteFile(page, []byte(head+begin+"\n"+text+"\n\n"+end+foot), 0o644); err != nil {
		t.Fatal(err)
	}
}
