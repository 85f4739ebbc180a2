package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
)

// Colours, as SGR parameters.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	dim    = "2"
)

// colour reports whether w is a terminal and nobody objects to colours.
func (a *app) colour(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && (w == a.out && a.outTTY || w == a.err && a.errTTY)
}

// paint colours text for w where that is wanted.
func (a *app) paint(w io.Writer, colour, text string) string {
	if text == "" || !a.colour(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// printJSON prints the document that was asked for.
func (a *app) printJSON(v any) error {
	a.answered = true
	return a.printLine(v)
}

// printLine prints one document of a stream.
func (a *app) printLine(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printRaw prints a document as the server made it, on one line.
func (a *app) printRaw(b json.RawMessage) error {
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return fmt.Errorf("couldn't read the server's answer: %w", err)
	}
	line.WriteByte('\n')
	a.answered = true
	_, err := line.WriteTo(a.out)
	return err
}

// say tells a person something on standard error. On a terminal long lines are
// broken between words; lines that begin with a space are kept as they are.
func (a *app) say(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		parts := []string{line}
		if a.errTTY && !strings.HasPrefix(line, " ") {
			parts = wrap(line, a.width(a.err))
		}
		for _, p := range parts {
			fmt.Fprintln(a.err, p)
		}
	}
}

// state paints the word for a state.
func (a *app) state(w io.Writer, s string) string {
	switch s {
	case "succeeded", "pass":
		return a.paint(w, green, s)
	case "failed", "rolled-back", "rollback-failed", "rolling-back", "fail", "timed-out":
		return a.paint(w, red, s)
	case "waiting", "cancelled", "superseded", "inconclusive", "no-data":
		return a.paint(w, yellow, s)
	}
	return s
}

func short(d release.Digest) string {
	if d == "" {
		return "-"
	}
	return d.Short()
}

func commit(c string) string {
	if c == "" {
		return "-"
	}
	return clean(c[:min(len(c), 12)])
}

// clean returns s without characters that a terminal would act on.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return visible(r)
	}, s)
}

// prose is a sentence that others made, with its durations as people read them.
func prose(s string) string { return clean(pipeline.PlainTimes(s)) }

// visible returns r, or what is shown instead of what would control a terminal
// or turn the direction of writing.
func visible(r rune) rune {
	if unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 {
		return unicode.ReplacementChar
	}
	return r
}

// width is how many columns w shows; 80 where it is no terminal, so that what is
// written to a file does not depend on where it was made.
func (a *app) width(w io.Writer) int {
	const usual = 80
	f, ok := w.(*os.File)
	if !ok || !(w == a.out && a.outTTY || w == a.err && a.errTTY) {
		return usual
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil || n < 20 {
		return usual
	}
	return min(n, 120)
}

// wrap breaks text between words into lines of at most width columns; colours
// do not count, and a percent sign stays with its number.
func wrap(text string, width int) []string {
	var out []string
	line, n := "", 0
	for _, word := range strings.Fields(strings.ReplaceAll(text, " %", "\x00%")) {
		word = strings.ReplaceAll(word, "\x00", " ")
		m := utf8.RuneCountInString(plainText(word))
		switch {
		case line == "":
			line, n = word, m
		case n+1+m > width:
			out = append(out, line)
			line, n = word, m
		default:
			line, n = line+" "+word, n+1+m
		}
	}
	return append(out, line)
}

// sheet writes labelled paragraphs that are wrapped beside their labels.
type sheet struct {
	a      *app
	w      io.Writer
	label  int // columns of labels
	indent int
}

// put writes a paragraph beside its label.
func (s sheet) put(label, text string) { s.hang(label, text, 0) }

// hang is put, with lines after the first further in.
func (s sheet) hang(label, text string, further int) {
	room := max(20, s.a.width(s.w)-s.indent-s.label-further)
	for i, line := range wrap(text, room) {
		if i > 0 {
			label, line = "", strings.Repeat(" ", further)+line
		}
		pad := strings.Repeat(" ", max(0, s.label-utf8.RuneCountInString(label)))
		fmt.Fprintf(s.w, "%s%s%s%s\n", strings.Repeat(" ", s.indent), s.a.paint(s.w, dim, label), pad, line)
	}
}

// cut shortens a line to width columns; colours do not count.
func cut(line string, width int) string {
	n, coloured := 0, false
	for i := 0; i < len(line); {
		if m := leading(line[i:]); m > 0 {
			coloured = true
			i += m
			continue
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		if n++; n == width && i+size < len(line) && strings.Trim(plainText(line[i+size:]), " ") != "" {
			if coloured {
				return line[:i] + "…\x1b[0m"
			}
			return line[:i] + "…"
		}
		i += size
	}
	return line
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// leading returns the length of the colour that s begins with, or 0.
func leading(s string) int {
	if !strings.HasPrefix(s, "\x1b[") {
		return 0
	}
	n := 2 + len(s[2:]) - len(strings.TrimLeft(s[2:], "0123456789;"))
	if n < len(s) && s[n] == 'm' {
		return n + 1
	}
	return 0
}

// plainText returns a line without its colours.
func plainText(s string) string { return sgr.ReplaceAllString(s, "") }

// atomically writes a file whole or not at all.
func atomically(path string, write func(*os.File) error) (err error) {
	t, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("couldn't write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(t.Name()))
		}
	}()
	if err := write(t); err != nil {
		return errors.Join(err, t.Close())
	}
	if err := errors.Join(t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
		return fmt.Errorf("couldn't write %s: %w", path, err)
	}
	if err := os.Rename(t.Name(), path); err != nil {
		return fmt.Errorf("couldn't write %s: %w", path, err)
	}
	return nil
}

// ago tells a time as a person would.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// bar draws a share of traffic.
func bar(percent float64) string {
	const width = 20
	n := int(percent/100*width + 0.5)
	n = max(0, min(width, n))
	return strings.Repeat("█", n) + strings.Repeat("░", width-n)
}
