// Command clidoc writes docs/reference/cli.md from what the commands say of
// themselves: it asks each for its --help, and those below it for theirs.
package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/sluicehq/sluice/internal/cli"
)

//go:generate go run . ../../docs/reference/cli.md

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: clidoc FILE")
		os.Exit(2)
	}
	page, err := render(help)
	if err == nil {
		err = os.WriteFile(os.Args[1], page, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clidoc:", err)
		os.Exit(1)
	}
}

// help is what `sluice PATH --help` prints, the same on every machine.
func help(path []string) (string, error) {
	for _, name := range []string{"SLUICE_SERVER", "SLUICE_TOKEN"} {
		if err := os.Unsetenv(name); err != nil {
			return "", err
		}
	}
	var out, errOut bytes.Buffer
	if code := cli.Main(append(append([]string{}, path...), "--help"), strings.NewReader(""), &out, &errOut); code != 0 {
		return "", fmt.Errorf("couldn't get the help of %q: code %d: %s", path, code, errOut.String())
	}
	text := out.String()
	if host, err := os.Hostname(); err == nil && host != "" {
		text = strings.ReplaceAll(text, fmt.Sprintf("(default %q)", host), "(default: this host's name)")
	}
	return text, nil
}

const head = `# Command line

Made by ` + "`go generate ./scripts/clidoc`" + ` from the commands' own help; do not edit.

Exit codes, the same everywhere:

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed before anybody was exposed |
| 2 | usage, or the definition |
| 3 | rolled back |
| 4 | waiting for a person (only with ` + "`--no-wait`" + `; by default ` + "`run`" + ` waits) |
| 5 | the rollback is stuck, or was given up |
| 6 | cancelled or superseded |
| 7 | the server can't be reached |

` + "`--json`" + ` on every command prints one JSON document (streams: one per line) with stable keys; progress goes to stderr.
`

func render(help func(path []string) (string, error)) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(head)
	var visit func(path []string) error
	visit = func(path []string) error {
		text, err := help(path)
		if err != nil {
			return err
		}
		name := strings.Join(append([]string{"sluice"}, path...), " ")
		fmt.Fprintf(&b, "\n%s %s\n\n```\n%s\n```\n", strings.Repeat("#", min(2+max(len(path)-1, 0), 4)), name, strings.TrimSpace(text))
		for _, sub := range commands(text) {
			if sub == "help" {
				continue
			}
			if err := visit(append(append([]string{}, path...), sub)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit(nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

var (
	heading = regexp.MustCompile(`^\S.*:$`)
	command = regexp.MustCompile(`^  ([a-z][a-z0-9-]*)  +\S`)
)

// commands finds the names of subcommands in a help text: they stand in sections
// of their own, some of which have names of their own.
func commands(text string) []string {
	var out []string
	in := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case heading.MatchString(line):
			in = line
		case in == "", strings.HasPrefix(in, "Usage"), strings.HasPrefix(in, "Examples"), strings.HasPrefix(in, "Aliases"), strings.Contains(in, "Flags"), strings.Contains(in, "help topics"):
		default:
			if m := command.FindStringSubmatch(line); m != nil {
				out = append(out, m[1])
			}
		}
	}
	return out
}
