package gate

import (
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/release"
)

var shop = Facts{
	Project: "default", Service: "shop", Environment: "production", Commit: "abc", Release: "sha256:1", Previous: "sha256:0",
	Artifacts: []release.Artifact{{Name: "main", Type: "files", Digest: "sha256:a", Size: 1000}, {Name: "web", Type: "files", Digest: "sha256:b", Size: 50}},
	Tests:     Tests{Reports: 1, Passed: 7, Skipped: 1}, Passed: []string{"dev"}, Isolation: "namespaces",
}

func TestCEL(t *testing.T) {
	for _, c := range []struct {
		expr string
		f    Facts
		want Answer
		says string
	}{
		{"artifact.size < 2000", shop, Pass, "holds"},
		{"artifact.size < 2000 && artifacts.all(a, a.type == 'files')", shop, Pass, ""},
		{"artifact.size < 10", shop, Fail, "artifact.size = 1050, tests = 7 passed, 0 failed"},
		{"tests.passed > 0 && tests.failed == 0 && tests.reports == 1 && tests.skipped == 1", shop, Pass, ""},
		{"'dev' in passed", shop, Pass, ""},
		{"'dev' in passed", Facts{}, Fail, "does not hold"},
		{"build.isolation == 'namespaces' && environment == 'production' && service == 'shop'", shop, Pass, ""},
		{"release.commit == 'abc' && release.previous != '' && release.id.startsWith('sha256:')", shop, Pass, ""},
		// What is missing or broken is never a pass, whichever way it is asked.
		{"artifact.size < 2000", Facts{}, Fail, "a fact that is missing is never a pass"},
		{"!(artifact.size > 2000)", Facts{}, Fail, "never a pass"},
		{"artifact.colour == 'red'", shop, Fail, "never a pass"},
		{"tests.unheard == 0", shop, Fail, "never a pass"},
		{"artifacts[7].size == 0", shop, Fail, "never a pass"},
		{"1 / tests.failed == 0", shop, Fail, "never a pass"},
		{"artifact.size", shop, Fail, "true or false"},
		{"artifact.name", shop, Fail, "true or false"},
		{"tests.passed", shop, Fail, "not usable"},
		{"true &&", shop, Fail, "not usable"},
		{"nothing == 1", shop, Fail, "undeclared reference"},
		{"", shop, Fail, "not usable"},
		{strings.Repeat("true || ", 600) + "true", shop, Fail, "at most 4096"},
		{"[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, true))))))", shop, Fail, "cost limit"},
	} {
		d := CEL("g", c.expr, c.f)
		if d.Answer != c.want || !strings.Contains(d.Reason, c.says) || d.Gate != "g" || d.Reason == "" {
			t.Errorf("%.80s: %+v, want %s that says %q", c.expr, d, c.want, c.says)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{"true", "artifact.size < 3", "artifact.signed"} {
		if err := Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "1", "'x'", "artifact..size", "f(1)", "passed", strings.Repeat("(", 3000), strings.Repeat("a", 5000)} {
		if Check(bad) == nil {
			t.Errorf("%.40s is taken", bad)
		}
	}
}

func TestTestsPassed(t *testing.T) {
	for _, c := range []struct {
		tests Tests
		want  Answer
		says  string
	}{
		{Tests{}, Fail, "no test report"},
		{Tests{Passed: 3}, Fail, "no test report"},
		{Tests{Reports: 1}, Fail, "no test that passed"},
		{Tests{Reports: 1, Skipped: 9}, Fail, "no test that passed"},
		{Tests{Reports: 2, Passed: 9, Failed: 1}, Fail, "1 of 10 tests failed"},
		{Tests{Reports: 1, Passed: 9, Skipped: 2}, Pass, "9 tests passed, 2 skipped"},
	} {
		if d := TestsPassed(Facts{Tests: c.tests}); d.Answer != c.want || !strings.Contains(d.Reason, c.says) {
			t.Errorf("%+v: %+v", c.tests, d)
		}
	}
	if (Decision{}).Answer == Pass {
		t.Error("nothing decided is a pass")
	}
	if got := size([]release.Artifact{{Size: 1 << 62}, {Size: 1 << 62}, {Size: 1}}); got != "very large" {
		t.Errorf("sum of sizes: %s", got)
	}
}

// Whatever is asked, nothing panics, and without any fact only what is true by
// itself passes.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{"true", "artifact.size < 200000000", "'dev' in passed", "artifacts.all(a, a.size > 0)", "tests[", "\"\\xff\"", "1/0 == 1", "size(artifact)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		err := Check(expr)
		d := CEL("g", expr, shop)
		if err != nil && d.Answer == Pass {
			t.Errorf("%q is refused (%v), and passes", expr, err)
		}
	})
}
