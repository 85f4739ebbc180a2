// Command testsum runs `go test -json` and tells its story in few lines: one line
// per package, the output of what failed, and a loud list of what was skipped and
// why, because a test that did not run proves nothing.
//
//	testsum [-totals FILE] -- go test -json ./...
//
// It ends with 1 if a test or package failed, or if the command did. With -totals it
// appends "PASSED FAILED SKIPPED" to the file, so that a script can add up several runs.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	totals := flag.String("totals", "", "append the three counts to this `FILE`")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: testsum [-totals FILE] -- go test -json ./...")
		os.Exit(2)
	}
	ok, err := run(flag.Args(), *totals)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

func run(args []string, totals string) (ok bool, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("couldn't read the tests' output: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("couldn't run %s: %w", args[0], err)
	}
	s := newSummary(os.Stdout)
	readErr := s.read(out)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out) // or the command never ends
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, fmt.Errorf("couldn't run %s: %w", args[0], err)
	}
	if err != nil && s.failed == 0 {
		s.failed++ // it failed before any test did, and has said why
		fmt.Printf("FAIL  %v: %v\n", args, err)
	}
	s.printSlow()
	s.printSkipped()
	fmt.Printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skipped))
	if totals != "" {
		if err := appendTotals(totals, s); err != nil {
			return false, err
		}
	}
	return s.failed == 0, readErr
}

func appendTotals(file string, s *summary) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("couldn't keep the totals: %w", err)
	}
	_, err = fmt.Fprintf(f, "%d %d %d\n", s.passed, s.failed, len(s.skipped))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("couldn't keep the totals: %w", err)
	}
	return nil
}

// lines calls f with every line of r, however long, without its end.
func lines(r io.Reader, f func(line []byte)) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		part, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if len(long) > 0 {
			part = append(long, part...)
			long = nil
		}
		if n := len(part); n > 0 {
			if part[n-1] == '\n' {
				part = part[:n-1]
			}
			f(part)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("couldn't read the tests' output: %w", err)
		}
	}
}
