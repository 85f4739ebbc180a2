package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// junit reads <testsuites> or <testsuite>, nested or not, as JUnit, pytest,
// Jest, gotestsum and Surefire write it. It reads tokens and not a tree, so
// that memory follows what is kept.
func junit(r io.Reader) (Summary, error) {
	d := xml.NewDecoder(r)
	d.Entity = nil // the five of XML itself only
	var (
		c       collect
		depth   int
		suites  int
		seenAny bool
		stated  statedCounts
	)
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Summary{}, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		switch t := tok.(type) {
		case xml.Directive:
			return Summary{}, fmt.Errorf("%w: line %d: it declares a document type, which may hide entities and is refused", ErrBroken, line(d))
		case xml.StartElement:
			name := t.Name.Local
			if !seenAny && name != "testsuites" && name != "testsuite" {
				return Summary{}, fmt.Errorf("%w: it starts with <%.40s>, not with <testsuites> or <testsuite>: it isn't JUnit", ErrBroken, name)
			}
			seenAny = true
			if name == "testcase" && suites > 0 {
				test, err := testcase(d, t)
				if err != nil {
					return Summary{}, err
				}
				if err := c.add(test); err != nil {
					return Summary{}, err
				}
				c.spend(test.Elapsed)
				continue
			}
			if depth++; depth > maxDepth {
				return Summary{}, fmt.Errorf("%w: line %d: elements are nested deeper than %d", ErrBroken, line(d), maxDepth)
			}
			if name == "testsuite" {
				suites++
			}
			if depth == 1 {
				stated.read(t)
			}
		case xml.EndElement:
			depth--
			if t.Name.Local == "testsuite" {
				suites--
			}
		}
	}
	if !seenAny {
		return Summary{}, ErrEmpty
	}
	s := c.done(JUnit)
	if n := stated.failures + stated.errors; n > s.Failed {
		// For instance an error of the suite itself that belongs to no test.
		s.Failed = n
		s.Listed = false
	}
	return s, nil
}

// statedCounts are what the outermost element claims. A claim can make a report
// worse than its tests, never better.
type statedCounts struct{ failures, errors int }

func (c *statedCounts) read(t xml.StartElement) {
	for _, a := range t.Attr {
		n, err := strconv.Atoi(strings.TrimSpace(a.Value))
		if err != nil || n < 0 || n > maxTests {
			continue
		}
		switch a.Name.Local {
		case "failures":
			c.failures = n
		case "errors":
			c.errors = n
		}
	}
}

// testcase reads one test up to its end tag.
func testcase(d *xml.Decoder, start xml.StartElement) (Test, error) {
	t := Test{Outcome: Passed}
	for _, a := range start.Attr {
		switch a.Name.Local {
		case "name":
			t.Name = a.Value
		case "classname":
			t.Package = a.Value
		case "time":
			// Some writers group thousands: 1,234.5
			f, err := strconv.ParseFloat(strings.ReplaceAll(a.Value, ",", ""), 64)
			if err == nil {
				t.Elapsed = seconds(f)
			}
		case "status":
			if a.Value == "notrun" || a.Value == "disabled" {
				t.Outcome = Skipped
			}
		}
	}
	var text strings.Builder
	for depth := 1; depth > 0; {
		tok, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("it is cut off inside a test")
			}
			return Test{}, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		switch e := tok.(type) {
		case xml.Directive:
			return Test{}, fmt.Errorf("%w: line %d: a document type inside a test", ErrBroken, line(d))
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return Test{}, fmt.Errorf("%w: line %d: elements are nested deeper than %d", ErrBroken, line(d), maxDepth)
			}
			switch e.Name.Local {
			case "failure", "error":
				t.Outcome = Failed
			case "skipped":
				if t.Outcome == Passed {
					t.Outcome = Skipped
				}
			}
			for _, a := range e.Attr {
				if a.Name.Local == "message" {
					write(&text, a.Value+"\n")
				}
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			write(&text, string(e))
		}
	}
	t.Output = strings.TrimSpace(text.String())
	return t, nil
}

func line(d *xml.Decoder) int {
	n, _ := d.InputPos()
	return n
}
