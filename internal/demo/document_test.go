package demo

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// keysOf lists the paths of a document with what kind of value each has; those of a
// list are of all its elements.
func keysOf(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			keysOf(strings.TrimPrefix(path+"."+k, "."), x, into)
		}
	case []any:
		for _, x := range v {
			keysOf(path+"[]", x, into)
		}
	default:
		kind := map[bool]string{true: "null", false: "number"}[v == nil]
		switch v.(type) {
		case string:
			kind = "string"
		case bool:
			kind = "bool"
		}
		if !strings.Contains(" "+into[path]+" ", " "+kind+" ") {
			into[path] = strings.TrimSpace(into[path] + " " + kind)
		}
	}
}

// The document is what programs read: its keys are these, whatever the structs are
// called. Of a version that nothing was found wrong with, what was not found is null,
// and there all the same.
func TestTheDocumentHasItsKeys(t *testing.T) {
	b, err := json.Marshal(whole())
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	keysOf("", doc, got)
	var lines []string
	for k, kind := range got {
		lines = append(lines, k+": "+kind)
	}
	slices.Sort(lines)
	want := `clientRequests: number
droppedRequests: number
evidence.statements: number
evidence.verified: bool
proxyRequests: number
releases[].badResponses: number
releases[].detectSeconds: null number
releases[].digest: string
releases[].goodResponses: number
releases[].release: string
releases[].requestsToDetect: null number
releases[].rollbackMillis: null number
releases[].state: string
releases[].verdict: string
releases[].version: string`
	if s := strings.Join(lines, "\n"); s != want {
		t.Errorf("the document's keys are\n%s\nand were\n%s", s, want)
	}
	for i, found := range []string{"null", "null", "number"} { // v1 and v2 are good
		one := map[string]string{}
		keysOf("", doc.(map[string]any)["releases"].([]any)[i], one)
		for _, k := range []string{"requestsToDetect", "detectSeconds", "rollbackMillis"} {
			if one[k] != found {
				t.Errorf("%s of v%d is %s, want %s", k, i+1, one[k], found)
			}
		}
	}
}

// What the machine lacks is said before the first act, and nothing is left behind.
func TestWhatIsMissingIsSaidBeforeTheFirstAct(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	bin := t.TempDir()
	for name, says := range map[string]string{"": "the demo needs git, as its example is a Git repository", "git": "the demo needs go, as its example is a Go service"} {
		if name != "" {
			if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", bin)
		var told bytes.Buffer
		err := Run(t.Context(), Options{Once: true, Story: &told})
		if err == nil || !strings.HasPrefix(err.Error(), says) || !strings.Contains(err.Error(), "; install it (") {
			t.Errorf("with %q on the PATH: %v", name, err)
		}
		if told.Len() > 0 {
			t.Errorf("the story began: %s", told.String())
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if name != "" {
			if err := os.Remove(filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
