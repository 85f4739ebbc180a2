package report

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Formats that Parse reads.
const (
	GoTest = "go-test"
	JUnit  = "junit"
)

// Bounds of every input.
const (
	MaxBytes  = 256 << 20 // of one report
	maxLine   = 1 << 20   // of one go test event
	maxTests  = 1_000_000 // tests counted; more is an error
	keepTests = 2_000     // tests listed in a Summary, failed ones first
	keepText  = 8 << 10   // bytes of one test's output
	keepName  = 512
	maxDepth  = 32 // of XML elements
)

// Errors that callers tell apart.
var (
	ErrEmpty  = errors.New("the report is empty")
	ErrBroken = errors.New("the report can't be read")
)

// Outcomes of one test.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Summary is what a report says.
type Summary struct {
	Format   string        `json:"format"`
	Passed   int           `json:"passed"`
	Failed   int           `json:"failed"`
	Skipped  int           `json:"skipped"`
	Duration time.Duration `json:"duration"` // as the report states it, summed over packages or suites
	Tests    []Test        `json:"tests"`    // failed first, then in the report's order; at most 2,000
	Listed   bool          `json:"listed"`   // Tests is complete
}

// Test is one test's result.
type Test struct {
	Package string        `json:"package,omitempty"`
	Name    string        `json:"name"`
	Outcome string        `json:"outcome"`
	Elapsed time.Duration `json:"elapsed"`
	Output  string        `json:"output,omitempty"` // of failed and skipped tests: the last 8 KiB
}

// Total is the number of tests that the report counts.
func (s Summary) Total() int { return s.Passed + s.Failed + s.Skipped }

// Passes reports whether the summary is evidence that tests passed: at least
// one passed and none failed.
func (s Summary) Passes() bool { return s.Failed == 0 && s.Passed > 0 }

// String says the counts in one sentence.
func (s Summary) String() string {
	switch {
	case s.Total() == 0:
		return "no test ran"
	case s.Failed == 0 && s.Passed == 0:
		return fmt.Sprintf("all %d tests were skipped", s.Skipped)
	default:
		return fmt.Sprintf("%d passed, %d failed, %d skipped", s.Passed, s.Failed, s.Skipped)
	}
}

// Parse reads a report of the given format.
func Parse(format string, r io.Reader) (Summary, error) {
	bounded := &bound{r: r, left: MaxBytes}
	var (
		s   Summary
		err error
	)
	switch format {
	case GoTest:
		s, err = goTest(bounded)
	case JUnit:
		s, err = junit(bounded)
	default:
		return Summary{}, fmt.Errorf("unknown report format %.40q (known: %s, %s)", format, GoTest, JUnit)
	}
	if bounded.over {
		return Summary{}, fmt.Errorf("%w: it is larger than %d MiB", ErrBroken, MaxBytes>>20)
	}
	return s, err
}

// bound ends the input after left bytes and remembers that it did.
type bound struct {
	r    io.Reader
	left int64
	over bool
}

func (b *bound) Read(p []byte) (int, error) {
	if b.left <= 0 {
		var one [1]byte
		n, err := b.r.Read(one[:])
		if n > 0 {
			b.over = true
			return 0, io.ErrUnexpectedEOF
		}
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// collect counts tests and keeps a bounded list, failed ones first.
type collect struct {
	sum    Summary
	failed []Test
	others []Test
}

func (c *collect) add(t Test) error {
	if c.sum.Total() >= maxTests {
		return fmt.Errorf("%w: it has more than %d tests", ErrBroken, maxTests)
	}
	t.Package, t.Name = cut(t.Package, keepName), cut(t.Name, keepName)
	list := &c.others
	switch t.Outcome {
	case Passed:
		c.sum.Passed++
		t.Output = ""
	case Skipped:
		c.sum.Skipped++
	default:
		c.sum.Failed++
		list = &c.failed
	}
	t.Output = tail(t.Output, keepText)
	if len(*list) < keepTests {
		*list = append(*list, t)
	}
	return nil
}

func (c *collect) done(format string) Summary {
	s := c.sum
	s.Format = format
	s.Tests = append(c.failed, c.others...)
	if len(s.Tests) > keepTests {
		s.Tests = s.Tests[:keepTests]
	}
	s.Listed = len(s.Tests) == s.Total()
	return s
}

// cut keeps the beginning of s as valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return clean(s)
}

// tail keeps the end of s as valid UTF-8.
func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return clean(s)
}

func clean(s string) string {
	if !utf8.ValidString(s) {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// spend adds to the duration, which stays at its largest when a report claims
// centuries.
func (c *collect) spend(d time.Duration) {
	if c.sum.Duration += d; c.sum.Duration < 0 {
		c.sum.Duration = 1<<63 - 1
	}
}

// seconds turns a report's number into a duration; nonsense is zero.
func seconds(f float64) time.Duration {
	if !(f > 0) || f > 1e6 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}
