package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
)

// find returns the row of a package.
func find(rows []row, short string) *row {
	for i := range rows {
		if rows[i].pkg == short {
			return &rows[i]
		}
	}
	return nil
}

// own is the short name of an import of this module.
func own(importPath string) (string, bool) {
	rest, ok := strings.CutPrefix(importPath, module)
	return strings.TrimPrefix(rest, "internal/"), ok
}

// within says that p is root or below it.
func within(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

// imported walks a package's imports in a fixed order.
func imported(p *pkg, visit func(f *file, path string, at token.Pos)) {
	for _, f := range p.files {
		all := f.imports()
		for _, path := range slices.Sorted(maps.Keys(all)) {
			visit(f, path, all[path])
		}
	}
}

// checkTable holds packages to their rows.
func checkTable(pkgs []*pkg, rows []row) (bad []string) {
	seen := map[string]bool{}
	for _, p := range pkgs {
		short := p.short()
		r := find(rows, short)
		if r == nil {
			bad = append(bad, fmt.Sprintf("%s has no row in archtest's table: say what it may import and why", p.dir))
			continue
		}
		seen[short] = true
		if r.why == "" {
			bad = append(bad, fmt.Sprintf("the row of %s gives no reason", short))
		}
		used := map[string]bool{}
		imported(p, func(f *file, path string, at token.Pos) {
			dep, ok := own(path)
			if !ok {
				return
			}
			allowed := r.may == anything || slices.Contains(strings.Fields(r.may), dep)
			switch {
			case !f.test && allowed:
				used[dep] = true
				if d := find(rows, dep); r.stage && d != nil && !d.stage {
					bad = append(bad, fmt.Sprintf("%s: %s is a stage, and may import stages and leaves only, not %s", f.at(at), short, dep))
				}
			case !f.test:
				bad = append(bad, fmt.Sprintf("%s: %s may not import %s (it may: %s); its reason: %s", f.at(at), short, dep, orNothing(r.may), r.why))
			case allowed, within(dep, short), forTests(dep), dep == "release", dep == "verdict", r.tests == anything, slices.Contains(strings.Fields(r.tests), dep):
			default:
				bad = append(bad, fmt.Sprintf("%s: tests of %s may not import %s", f.at(at), short, dep))
			}
		})
		for _, dep := range strings.Fields(r.may) {
			if !used[dep] && dep != anything {
				bad = append(bad, fmt.Sprintf("the row of %s allows %s, which it does not import: take it out", short, dep))
			}
		}
	}
	for _, r := range rows {
		if !seen[r.pkg] {
			bad = append(bad, fmt.Sprintf("the table has a row for %s, which does not exist", r.pkg))
		}
	}
	return bad
}

func orNothing(s string) string {
	if s == "" {
		return "nothing of this module"
	}
	return s
}

// checkStages holds stage packages to what lets their decisions be replayed.
func checkStages(pkgs []*pkg, rows []row) (bad []string) {
	for _, p := range pkgs {
		short := p.short()
		r := find(rows, short)
		if r == nil || !r.stage {
			continue
		}
		libs := strings.Fields(r.libs)
		for _, f := range p.files {
			if f.test {
				continue
			}
			all := f.imports()
			for _, path := range slices.Sorted(maps.Keys(all)) {
				if why, ok := stageBans[path]; ok && r.except[path] == "" {
					bad = append(bad, fmt.Sprintf("%s: stage %s imports %s: %s", f.at(all[path]), short, path, why))
				}
				if _, ok := own(path); !ok && strings.Contains(strings.Split(path, "/")[0], ".") && !slices.Contains(libs, path) {
					bad = append(bad, fmt.Sprintf("%s: stage %s imports the library %s, which its row does not name", f.at(all[path]), short, path))
				}
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					bad = append(bad, fmt.Sprintf("%s: stage %s starts a goroutine", f.at(n.Pos()), short))
				case *ast.SelectorExpr:
					x, ok := n.X.(*ast.Ident)
					if !ok {
						return true
					}
					for path, names := range stageCalls {
						what := names[n.Sel.Name]
						if what == "" || f.name(path) != x.Name || r.except[path+"."+n.Sel.Name] != "" {
							continue
						}
						bad = append(bad, fmt.Sprintf("%s: stage %s uses %s.%s, which %s; let the caller pass it in", f.at(n.Pos()), short, x.Name, n.Sel.Name, what))
					}
				}
				return true
			})
		}
	}
	return bad
}

// checkBans holds imports to the places where they belong.
func checkBans(pkgs []*pkg) (bad []string) {
	for _, p := range pkgs {
		short := p.short()
		imported(p, func(f *file, path string, at token.Pos) {
			for _, b := range banned {
				if b.path == "math/rand" && path == "math/rand/v2" || b.path == "log" && path != "log" || !within(path, b.path) {
					continue
				}
				if f.test && !within(b.path, "database") && b.path != "math/rand" && b.path != "io/ioutil" {
					continue // tests may look from outside: a second YAML reader, a process, a client
				}
				if !slices.Contains(strings.Fields(b.only), short) {
					bad = append(bad, fmt.Sprintf("%s: %s imports %s: %s", f.at(at), short, path, b.why))
				}
			}
			if f.test || forTests(short) {
				return
			}
			if within(path, "testing") {
				bad = append(bad, fmt.Sprintf("%s: %s imports %s outside tests: it would be in the product's binary", f.at(at), short, path))
			}
			if dep, ok := own(path); ok && forTests(dep) {
				bad = append(bad, fmt.Sprintf("%s: %s imports %s, which is for tests", f.at(at), short, dep))
			}
		})
	}
	return bad
}

// checkHabits holds files to style.
func checkHabits(pkgs []*pkg) (bad []string) {
	for _, p := range pkgs {
		var doc *file
		products := 0
		for _, f := range p.files {
			if badNames[f.ast.Name.Name] {
				bad = append(bad, fmt.Sprintf("%s: package %s says nothing about what is inside", f.path, f.ast.Name.Name))
			}
			if f.lines > maxLines && !f.generated {
				bad = append(bad, fmt.Sprintf("%s has %d lines, more than %d: split it by subject", f.path, f.lines, maxLines))
			}
			for _, group := range f.ast.Comments {
				for _, c := range group.List {
					if word := unfinished(c.Text); word != "" && !f.generated {
						bad = append(bad, fmt.Sprintf("%s: %s: do it, or write an issue", f.at(c.Pos()), word))
					}
				}
			}
			if f.test {
				continue
			}
			products++
			if f.ast.Doc == nil {
				continue
			}
			if text := f.ast.Doc.Text(); strings.HasPrefix(text, "Package "+f.ast.Name.Name+" ") || strings.HasPrefix(text, "Command ") {
				doc = f
			}
		}
		switch {
		case products == 0:
		case doc == nil:
			bad = append(bad, fmt.Sprintf("%s has no package comment: open it with doc.go (purpose, invariants, failure behaviour)", p.dir))
		case products > 2 && !strings.HasSuffix(doc.path, "/doc.go") && doc.ast.Name.Name != "main":
			bad = append(bad, fmt.Sprintf("%s: the comment of a package of %d files belongs into doc.go", doc.path, products))
		}
	}
	return bad
}

// unfinished finds a word that says that work was left.
func unfinished(comment string) string {
	for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
		if i := strings.Index(comment, word); i >= 0 {
			before, after := comment[:i], comment[i+len(word):]
			if !endsWithLetter(before) && !startsWithLetter(after) {
				return word
			}
		}
	}
	return ""
}

func endsWithLetter(s string) bool   { return s != "" && letter(s[len(s)-1]) }
func startsWithLetter(s string) bool { return s != "" && letter(s[0]) }
func letter(c byte) bool             { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
