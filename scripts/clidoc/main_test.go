package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/cli"
	"github.com/sluicehq/sluice/internal/pipeline"
)

const rootHelp = `Takes a commit to production.
Exit codes:
  none  of these is a command

Usage:
  sluice [command]

Start:
  up          Run the server
  give-up     Give up

Additional Commands:
  completion  Generate the autocompletion script

Flags:
  -h, --help  help for sluice

Use "sluice [command] --help" for more information about a command.
`

func TestCommands(t *testing.T) {
	got := commands(strings.Replace(rootHelp, "Exit codes:\n  none  of these is a command\n", "", 1))
	if want := []string{"up", "give-up", "completion"}; !slices.Equal(got, want) {
		t.Errorf("commands = %q, want %q", got, want)
	}
	if got := commands("Print\n\nUsage:\n  sluice up [flags]\n\nExamples:\n  sluice  up\n\nFlags:\n  -v  more\n"); len(got) != 0 {
		t.Errorf("a leaf has commands %q", got)
	}
}

// TestEveryCommandHasItsHelp renders the real thing: each of the commands that
// interface.md names for this build, with what it does.
func TestEveryCommandHasItsHelp(t *testing.T) {
	page, err := render(help)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("demo up down agent init lint plan judge run runs status logs watch explain approve reject advance pause resume abort promote rollback give-up quarantine artifact evidence version completion") {
		if !strings.Contains(string(page), "\n## sluice "+name+"\n") {
			t.Errorf("the page has no command %s", name)
		}
	}
	for _, name := range []string{"evidence export", "evidence verify", "quarantine lift"} {
		if !strings.Contains(string(page), "\n### sluice "+name+"\n") {
			t.Errorf("the page has no command %s", name)
		}
	}
}

// TestDefinitionsInDocs lints the whole definitions that the pages show.
func TestDefinitionsInDocs(t *testing.T) {
	found := 0
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			src, _, _ := strings.Cut(block, "```")
			if !strings.HasPrefix(src, "version:") {
				continue
			}
			found++
			file := filepath.Join(t.TempDir(), "sluice.yaml")
			if strings.Contains(src, "\nstandards:") {
				if _, problems := pipeline.ParsePlatform(page, []byte(src)); len(problems) > 0 {
					t.Errorf("%s: a platform's file: %s", page, problems.Render([]byte(src), false))
				}
				continue
			}
			if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, errOut bytes.Buffer
			code := cli.Main([]string{"lint", "--file", file}, strings.NewReader(""), &out, &errOut)
			if code != 0 || strings.Contains(out.String(), "warning:") {
				t.Errorf("%s: lint ends with %d: %s%s", page, code, out.String(), errOut.String())
			}
		}
	}
	if found == 0 {
		t.Error("found no definition in docs")
	}
}
