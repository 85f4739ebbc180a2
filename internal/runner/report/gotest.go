package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

type testID struct{ pkg, test string }

// goState is what has been seen of a stream.
type goState struct {
	collect
	open     map[testID]*strings.Builder // started tests, with their output
	order    []testID
	packages map[string]*goPackage
	names    []string // of packages, in order
	builds   map[string]*strings.Builder
}

type goPackage struct {
	ended  bool
	broke  bool // the package itself says that it failed
	failed bool // and this failure is counted: a test, or its build
	output strings.Builder
}

// goTest reads a stream. A test or package that started and never ended was cut
// off by a crash, a panic or os.Exit, and counts as failed.
func goTest(r io.Reader) (Summary, error) {
	s := goState{open: map[testID]*strings.Builder{}, packages: map[string]*goPackage{}, builds: map[string]*strings.Builder{}}
	in := bufio.NewReaderSize(r, 64<<10)
	number, events := 0, 0
	for {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return Summary{}, fmt.Errorf("%w: line %d: %w", ErrBroken, number+1, err)
		}
		number++
		if text := strings.TrimSpace(string(line)); text != "" {
			var e event
			if jsonErr := json.Unmarshal([]byte(text), &e); jsonErr != nil || e.Action == "" {
				why := "it isn't an event of go test -json"
				if err != nil {
					why = "it is cut off"
				}
				return Summary{}, fmt.Errorf("%w: line %d: %s: %.80q (write it with: go test -json ./... > FILE)", ErrBroken, number, why, text)
			}
			events++
			if err := s.apply(e); err != nil {
				return Summary{}, err
			}
		}
		if err != nil {
			break
		}
	}
	if events == 0 {
		return Summary{}, ErrEmpty
	}
	return s.finish()
}

func (s *goState) apply(e event) error {
	if len(s.packages)+len(s.open)+len(s.builds) > maxTests {
		return fmt.Errorf("%w: it has more than %d tests", ErrBroken, maxTests)
	}
	switch e.Action {
	case "build-output":
		write(s.build(e.ImportPath), e.Output)
		return nil
	case "build-fail":
		s.build(e.ImportPath)
		return nil
	}
	if e.Package == "" {
		return nil // nothing to count: a note of the tool itself
	}
	p := s.packages[e.Package]
	if p == nil {
		p = &goPackage{}
		s.packages[e.Package] = p
		s.names = append(s.names, e.Package)
	}
	id := testID{e.Package, e.Test}
	if e.Test != "" {
		return s.applyTest(e, id, p)
	}
	switch e.Action {
	case "output":
		write(&p.output, e.Output)
	case "pass", "skip", "fail":
		p.ended = true
		s.spend(seconds(e.Elapsed))
		if e.Action != "fail" {
			return nil
		}
		p.broke = true
		if e.FailedBuild != "" {
			p.failed = true
			text := p.output.String()
			if b := s.builds[e.FailedBuild]; b != nil {
				text = b.String()
			}
			return s.add(Test{Package: e.Package, Name: "(build)", Outcome: Failed, Output: text})
		}
	}
	return nil
}

func (s *goState) applyTest(e event, id testID, p *goPackage) error {
	switch e.Action {
	case "run":
		if s.open[id] == nil {
			s.open[id] = &strings.Builder{}
			s.order = append(s.order, id)
		}
	case "output":
		if b := s.open[id]; b != nil {
			write(b, e.Output)
		}
	case "pass", "fail", "skip":
		t := Test{Package: e.Package, Name: e.Test, Elapsed: seconds(e.Elapsed), Outcome: map[string]string{"pass": Passed, "fail": Failed, "skip": Skipped}[e.Action]}
		if b := s.open[id]; b != nil {
			t.Output = b.String()
			delete(s.open, id)
		}
		p.failed = p.failed || t.Outcome == Failed
		return s.add(t)
	}
	return nil
}

// finish accounts for what never ended and for packages that failed by
// themselves.
func (s *goState) finish() (Summary, error) {
	for _, id := range s.order {
		b := s.open[id]
		if b == nil {
			continue
		}
		delete(s.open, id)
		s.packages[id.pkg].failed = true
		if err := s.add(Test{Package: id.pkg, Name: id.test, Outcome: Failed, Output: b.String() + "\n(the test never ended)"}); err != nil {
			return Summary{}, err
		}
	}
	for _, name := range s.names {
		p := s.packages[name]
		text := p.output.String()
		switch {
		case p.failed || p.ended && !p.broke:
			continue
		case !p.ended:
			text += "\n(the package never ended: the report is cut off)"
		}
		// Without a failed test: TestMain, an init function, a panic, a time-out.
		if err := s.add(Test{Package: name, Name: "(package)", Outcome: Failed, Output: text}); err != nil {
			return Summary{}, err
		}
	}
	return s.done(GoTest), nil
}

func (s *goState) build(path string) *strings.Builder {
	b := s.builds[path]
	if b == nil {
		b = &strings.Builder{}
		s.builds[path] = b
	}
	return b
}

// write appends to a bounded text: once it is twice what is kept, only its end
// stays.
func write(b *strings.Builder, text string) {
	if len(text) > keepText {
		text = text[len(text)-keepText:]
	}
	if b.Len()+len(text) > 2*keepText {
		old := b.String()
		b.Reset()
		b.WriteString(old[len(old)-min(len(old), keepText):])
	}
	b.WriteString(text)
}

// readLine reads one line without its end, of at most maxLine bytes.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
