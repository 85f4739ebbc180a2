package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

const module = "github.com/sluicehq/sluice/"

// file is one Go file.
type file struct {
	path      string // from the repository's root, with slashes
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File
}

// at says where a node stands, for a message.
func (f *file) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(p).Line)
}

// ignored says that no build takes f: it is a program of its own for go:generate.
func (f *file) ignored() bool {
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			if c.Pos() < f.ast.Package && c.Text == "//go:build ignore" {
				return true
			}
		}
	}
	return false
}

// imports are the paths that f imports, by where.
func (f *file) imports() map[string]token.Pos {
	all := map[string]token.Pos{}
	for _, s := range f.ast.Imports {
		if p, err := strconv.Unquote(s.Path.Value); err == nil {
			all[p] = s.Pos()
		}
	}
	return all
}

// name is what f calls the package of an import path, and "" if it imports none.
func (f *file) name(importPath string) string {
	for _, s := range f.ast.Imports {
		if p, _ := strconv.Unquote(s.Path.Value); p != importPath {
			continue
		}
		if s.Name != nil {
			return s.Name.Name
		}
		base := path.Base(importPath)
		if len(base) > 1 && base[0] == 'v' && base[1] >= '0' && base[1] <= '9' {
			base = path.Base(path.Dir(importPath)) // math/rand/v2 is rand
		}
		return base
	}
	return ""
}

// pkg is one folder of Go files.
type pkg struct {
	dir   string // from the repository's root: "internal/rollout"
	files []*file
}

// short is how the table calls it: "rollout", "cmd/sluice".
func (p *pkg) short() string { return strings.TrimPrefix(p.dir, "internal/") }

// forTests says that p exists for tests: its name ends with "test".
func forTests(short string) bool { return strings.HasSuffix(short, "test") }

// parse reads one file's text.
func parse(name string, src []byte) (*file, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("couldn't parse %s: %w", name, err)
	}
	return &file{
		path: name, test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(f),
		lines: bytes.Count(src, []byte("\n")), fset: fset, ast: f,
	}, nil
}

// tree reads every package of the module below root. Other modules inside it
// (examples, testdata/real) follow their own rules.
func tree(root string) ([]*pkg, error) {
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			switch name := d.Name(); {
			case rel == ".":
				return nil
			case strings.HasPrefix(name, "."), strings.HasPrefix(name, "_"), name == "testdata", name == "node_modules", rel == "bin":
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parse(rel, src)
		if err != nil {
			return err
		}
		if f.ignored() {
			return nil
		}
		dir := path.Dir(rel)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{dir: dir}
		}
		pkgs[dir].files = append(pkgs[dir].files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read the tree: %w", err)
	}
	var list []*pkg
	for _, p := range pkgs {
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].dir < list[j].dir })
	return list, nil
}
