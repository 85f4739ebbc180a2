package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	title    = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInRef = regexp.MustCompile(`[^a-z0-9 _-]`)
	fenced   = regexp.MustCompile("(?s)```.*?```")
)

// anchor is what GitHub makes of a title.
func anchor(text string) string {
	return strings.ReplaceAll(notInRef.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
}

// TestLinks follows every relative link of the repository's pages.
func TestLinks(t *testing.T) {
	root := "../.."
	links := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(p) != ".md" {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			file, section, _ := strings.Cut(m[1], "#")
			to := p
			if file != "" {
				to = filepath.Join(filepath.Dir(p), filepath.FromSlash(file))
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which is not there", p, m[1])
				continue
			}
			if section == "" || filepath.Ext(to) != ".md" {
				continue
			}
			there, err := os.ReadFile(to)
			if err != nil {
				return err
			}
			found := false
			for _, h := range title.FindAllStringSubmatch(fenced.ReplaceAllString(string(there), ""), -1) {
				found = found || anchor(h[1]) == section
			}
			if !found {
				t.Errorf("%s links to %s, but %s has no such section", p, m[1], file)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 20 {
		t.Errorf("found %d links only", links)
	}
}

// TestMap finds each package below internal on the map of README.md.
func TestMap(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "is the map.")
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.Contains(list, "`"+e.Name()+"`") {
			t.Errorf("README.md's map lacks internal/%s", e.Name())
		}
	}
}
