package archtest

import (
	"path"
	"strings"
	"testing"
)

// TestRepository holds this repository to its architecture.
func TestRepository(t *testing.T) {
	pkgs, err := tree("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 20 {
		t.Fatalf("found %d packages: these are not all", len(pkgs))
	}
	for _, rule := range []struct {
		name string
		bad  []string
	}{
		{"import table", checkTable(pkgs, table)},
		{"stages decide and do nothing else", checkStages(pkgs, table)},
		{"imports in their places", checkBans(pkgs)},
		{"habits", checkHabits(pkgs)},
	} {
		t.Run(rule.name, func(t *testing.T) {
			for _, b := range rule.bad {
				t.Error(b)
			}
		})
	}
}

// TestTableHasNoCycle: rows allow what a compiler would refuse only later.
func TestTableHasNoCycle(t *testing.T) {
	const open, done = 1, 2
	state := map[string]int{}
	var visit func(name string, way []string)
	visit = func(name string, way []string) {
		switch state[name] {
		case open:
			t.Errorf("the table goes in a circle: %s", strings.Join(append(way, name), " → "))
			return
		case done:
			return
		}
		state[name] = open
		r := find(table, name)
		if r == nil {
			t.Errorf("%s allows %s, which has no row", way[len(way)-1], name)
			state[name] = done
			return
		}
		for _, dep := range strings.Fields(r.may) {
			if dep != anything { // nobody may import such a package
				visit(dep, append(way, name))
			}
		}
		state[name] = done
	}
	for _, r := range table {
		visit(r.pkg, nil)
		for _, dep := range strings.Fields(r.may) {
			if d := find(table, dep); d != nil && d.may == anything {
				t.Errorf("%s may import %s, which may import anything", r.pkg, dep)
			}
		}
	}
}

// TestExceptionsAreNeeded: an exception that nothing needs any more goes away.
func TestExceptionsAreNeeded(t *testing.T) {
	pkgs, err := tree("../..")
	if err != nil {
		t.Fatal(err)
	}
	without := make([]row, len(table))
	copy(without, table)
	for i := range without {
		without[i].except = nil
	}
	all := strings.Join(checkStages(pkgs, without), "\n")
	for _, r := range table {
		for what, why := range r.except {
			if why == "" {
				t.Errorf("the exception of %s for %s gives no reason", r.pkg, what)
			}
			if !strings.Contains(all, "stage "+r.pkg+" imports "+what+":") && !strings.Contains(all, "stage "+r.pkg+" uses "+what+",") {
				t.Errorf("%s does not need its exception for %s", r.pkg, what)
			}
		}
	}
}

// TestRulesBite gives each rule what it must refuse, and its like that it must not.
func TestRulesBite(t *testing.T) {
	rows := []row{
		{pkg: "leaf", stage: true, why: "a leaf"},
		{pkg: "stage", may: "leaf", stage: true, libs: "example.test/lib", why: "a stage"},
		{pkg: "adapter", may: "leaf", why: "an adapter"},
		{pkg: "adapter/adaptertest", may: "adapter", why: "a suite"},
		{pkg: "store", why: "the store"},
	}
	const doc = "// Package p is here.\n"
	for _, c := range []struct{ name, file, src, want string }{
		{"a row's import", "internal/stage/a.go", doc + `package p; import "github.com/sluicehq/sluice/internal/leaf"; var _ = leaf.X`, ""},
		{"an import against the stream", "internal/leaf/a.go", doc + `package p; import "github.com/sluicehq/sluice/internal/stage"; var _ = stage.X`, "leaf may not import stage"},
		{"a test's import", "internal/leaf/a_test.go", `package p; import "github.com/sluicehq/sluice/internal/stage"; var _ = stage.X`, "tests of leaf may not import stage"},
		{"a suite in a test", "internal/leaf/a_test.go", `package p; import "github.com/sluicehq/sluice/internal/adapter/adaptertest"; var _ = adaptertest.X`, ""},
		{"a suite in the product", "internal/adapter/a.go", doc + `package p; import "github.com/sluicehq/sluice/internal/adapter/adaptertest"; var _ = adaptertest.X`, "which is for tests"},
		{"no row", "internal/stranger/a.go", doc + `package p`, "internal/stranger has no row"},
		{"a clock", "internal/stage/a.go", doc + `package p; import "time"; var now = time.Now()`, "uses time.Now"},
		{"a clock by another name", "internal/stage/a.go", doc + `package p; import clock "time"; var now = clock.Now`, "uses clock.Now"},
		{"a duration", "internal/stage/a.go", doc + `package p; import "time"; const d = time.Second`, ""},
		{"a clock in an adapter", "internal/adapter/a.go", doc + `package p; import "time"; var now = time.Now()`, ""},
		{"a timeout", "internal/stage/a.go", doc + `package p; import "context"; var f = context.WithTimeout`, "uses context.WithTimeout"},
		{"a goroutine", "internal/stage/a.go", doc + "package p\nfunc f() { go f() }", "starts a goroutine"},
		{"a goroutine behind a group", "internal/stage/a.go", doc + `package p; import "sync"; var g sync.WaitGroup`, "uses sync.WaitGroup"},
		{"once", "internal/stage/a.go", doc + `package p; import "sync"; var g sync.Once`, ""},
		{"the network", "internal/stage/a.go", doc + `package p; import "net/http"; var _ = http.Get`, "imports net/http: the network"},
		{"an address", "internal/stage/a.go", doc + `package p; import "net/netip"; var _ netip.Addr`, ""},
		{"the disk", "internal/stage/a.go", doc + `package p; import "os"; var _ = os.Open`, "imports os"},
		{"the disk in a test", "internal/stage/a_test.go", `package p; import "os"; var _ = os.Open`, ""},
		{"chance", "internal/stage/a.go", doc + `package p; import "math/rand/v2"; var _ = rand.IntN(2)`, "uses rand.IntN"},
		{"a known library", "internal/stage/a.go", doc + `package p; import "example.test/lib"; var _ = lib.X`, ""},
		{"an unknown library", "internal/stage/a.go", doc + `package p; import "example.test/other"; var _ = other.X`, "which its row does not name"},
		{"SQL", "internal/adapter/a.go", doc + `package p; import "database/sql"; var _ sql.DB`, "SQL is the store's"},
		{"SQL in its place", "internal/store/a.go", doc + `package p; import "database/sql"; var _ sql.DB`, ""},
		{"a global log", "internal/adapter/a.go", doc + `package p; import "log"; var _ = log.Print`, "log/slog"},
		{"a logger", "internal/adapter/a.go", doc + `package p; import "log/slog"; var _ slog.Logger`, ""},
		{"old chance", "internal/adapter/a_test.go", `package p; import "math/rand"; var _ = rand.Int`, "math/rand/v2"},
		{"testing in the product", "internal/adapter/a.go", doc + `package p; import "testing"; var _ testing.TB`, "outside tests"},
		{"testing in a suite", "internal/adapter/adaptertest/a.go", doc + `package p; import "testing"; var _ testing.TB`, ""},
		{"a name without meaning", "internal/adapter/a.go", "// Package util is here.\npackage util", "says nothing about what is inside"},
		{"no package comment", "internal/adapter/a.go", "package p", "has no package comment"},
		{"work left", "internal/adapter/a.go", doc + "package p\n// TO" + "DO(me): more\n", "do it, or write an issue"},
		{"a word that holds another", "internal/adapter/a.go", doc + "package p\n// NOTO" + "DOS\n", ""},
		{"a long file", "internal/adapter/a.go", doc + "package p" + strings.Repeat("\n", maxLines+2), "split it by subject"},
		{"a long generated file", "internal/adapter/a.go", "// Code generated by x. DO NOT EDIT.\n\n" + doc + "package p\n" + strings.Repeat("\n", maxLines), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := parse(c.file, []byte(c.src))
			if err != nil {
				t.Fatal(err)
			}
			pkgs := []*pkg{{dir: path.Dir(c.file), files: []*file{f}}}
			var bad []string
			for _, b := range append(append(append(checkTable(pkgs, rows), checkStages(pkgs, rows)...), checkBans(pkgs)...), checkHabits(pkgs)...) {
				if !strings.Contains(b, "does not exist") && !strings.Contains(b, "take it out") {
					bad = append(bad, b)
				}
			}
			got := strings.Join(bad, "\n")
			if c.want == "" && got != "" {
				t.Errorf("refused: %s", got)
			}
			if c.want != "" && !strings.Contains(got, c.want) {
				t.Errorf("got %q, want something with %q", got, c.want)
			}
		})
	}
}
