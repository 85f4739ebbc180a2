package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Severity says what a problem does to a run.
type Severity string

// Severities. Only an error stops a run; a note is a choice worth knowing of.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Problem is one thing that is wrong with a definition, and how to mend it.
// Line and Column count from 1; a column is a character, not a byte.
type Problem struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"` // stable, kebab-case
	Path     string   `json:"path,omitempty"`
	Message  string   `json:"message"`
	Mend     string   `json:"mend,omitempty"`
}

// String returns file:line:column: severity: message.
func (p Problem) String() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", p.File, p.Line, p.Column, p.Severity, p.Message)
}

// Problems are sorted by position.
type Problems []Problem

// Failed reports whether one of the problems is an error.
func (ps Problems) Failed() bool { return ps.Count(Error) > 0 }

// Count returns the number of problems of a severity.
func (ps Problems) Count(s Severity) int {
	n := 0
	for _, p := range ps {
		if p.Severity == s {
			n++
		}
	}
	return n
}

// Err returns nil when there is no error, or an error that holds all of them,
// one per line, without source lines.
func (ps Problems) Err() error {
	if !ps.Failed() {
		return nil
	}
	var lines []string
	for _, p := range ps {
		if p.Severity == Error {
			lines = append(lines, p.String())
		}
	}
	return fmt.Errorf("couldn't accept the definition: %s", strings.Join(lines, "\n"))
}

func (ps Problems) sort() {
	rank := map[Severity]int{Error: 0, Warning: 1, Note: 2}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(rank[a.Severity], rank[b.Severity]),
			cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Message, b.Message),
		)
	})
}

// colours of severities, and resets.
const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	reset = "\x1b[0m"
)

var colours = map[Severity]string{Error: "\x1b[1;31m", Warning: "\x1b[1;33m", Note: "\x1b[1;36m"}

// Render returns the problems for people: where and what, the offending line of
// src, a caret under the column, and the mend. Nothing that src holds reaches a
// terminal as a control sequence.
func (ps Problems) Render(src []byte, color bool) string {
	paint := func(code, s string) string {
		if !color {
			return s
		}
		return code + s + reset
	}
	lines := splitLines(src)
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s %s %s %s\n",
			paint(bold, fmt.Sprintf("%s:%d:%d:", printable(p.File), p.Line, p.Column)),
			paint(colours[p.Severity], string(p.Severity)+":"),
			paint(bold, printable(p.Message)), paint(faint, "("+p.Rule+")"))
		if p.Line >= 1 && p.Line <= len(lines) {
			number := fmt.Sprintf("%4d", p.Line)
			text, caret := excerpt(lines[p.Line-1], p.Column)
			fmt.Fprintf(&b, "%s %s\n", paint(faint, number+" |"), text)
			fmt.Fprintf(&b, "%s %s\n", paint(faint, "     |"), caret+paint(colours[p.Severity], "^"))
		}
		if p.Mend != "" {
			fmt.Fprintf(&b, "     = %s\n", printable(p.Mend))
		}
	}
	return b.String()
}

// maxExcerpt is how many characters of a line are shown around the column.
const maxExcerpt = 120

// excerpt returns the line as it is printed and the white space that puts a
// caret under the column. Tabs stay tabs in both, so that they line up wherever
// the terminal's stops are.
func excerpt(line string, column int) (text, indent string) {
	n := utf8.RuneCountInString(line)
	at := min(max(column-1, 0), n)
	from, to := 0, n
	if n > maxExcerpt {
		from = max(0, at-maxExcerpt/2)
		to = min(n, from+maxExcerpt)
	}
	shownRunes := []rune(line[offsetOf(line, from):offsetOf(line, to)])
	var t, in strings.Builder
	if from > 0 {
		t.WriteString("…")
		in.WriteByte(' ')
	}
	for i, r := range shownRunes {
		shown, cells := cell(r)
		t.WriteString(shown)
		if from+i >= at {
			continue
		}
		if r == '\t' {
			in.WriteByte('\t')
		} else {
			in.WriteString(strings.Repeat(" ", cells))
		}
	}
	if to < n {
		t.WriteString("…")
	}
	return t.String(), in.String()
}

// offsetOf returns the byte at which character n of s begins.
func offsetOf(s string, n int) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

// cell returns how a character is shown and how many terminal cells it takes.
func cell(r rune) (string, int) {
	switch {
	case r == '\t':
		return "\t", 1
	case r == unicode.ReplacementChar || unicode.IsControl(r) || hidden(r):
		return string(unicode.ReplacementChar), 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return string(r), 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return string(r), 2
	}
	return string(r), 1
}

// printable returns s without characters that a terminal would act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || hidden(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// hidden reports whether r makes text read otherwise than it is: overrides of
// the direction of writing, and line ends that editors do not show.
func hidden(r rune) bool {
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 || r == 0x85
}

// splitLines splits as YAML does: at \n, \r\n and \r. The file's byte order
// mark belongs to no line.
func splitLines(src []byte) []string {
	s := strings.TrimPrefix(string(src), "\ufeff")
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	return strings.Split(s, "\n")
}
