package runner

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func testSink(limit int64, secret ...string) (*sink, *bytes.Buffer, *[]Line) {
	var file bytes.Buffer
	lines := &[]Line{}
	at := time.Unix(1, 0)
	s := newSink("unit", newSecrets(secret), &file, func(_ string, l Line) { *lines = append(*lines, l) }, func() time.Time { return at }, limit)
	return s, &file, lines
}

func TestALogKeepsItsBeginningAndItsEnd(t *testing.T) {
	s, file, lines := testSink(100)
	for i := range 50_000 {
		if _, err := fmt.Fprintf(s, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Write([]byte("panic: the reason\n")); err != nil {
		t.Fatal(err)
	}
	if err := s.close("failed: exit code 2"); err != nil {
		t.Fatal(err)
	}
	text := file.String()
	for _, want := range []string{"line 0\n", "longer than 100 bytes", "line 49999\npanic: the reason\n", "[sluice] failed: exit code 2\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if len(text) > 100+tailLog+500 {
		t.Errorf("the log has %d bytes", len(text))
	}
	if last := (*lines)[len(*lines)-1]; last.Text != "[sluice] failed: exit code 2" || last.Number != len(*lines) {
		t.Errorf("the last line is %+v", last)
	}
	if s.dropped == 0 || int64(len(text)) != s.kept || s.sum() == "" {
		t.Errorf("dropped %d, kept %d", s.dropped, s.kept)
	}
}

func TestLinesAreBoundedAndValid(t *testing.T) {
	s, _, lines := testSink(1 << 20)
	long := strings.Repeat("x", maxLine+10)
	for _, part := range []string{"one\r\ntw", "o\n\n", "\xff\n", long, "\nend"} {
		if _, err := s.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range *lines {
		got = append(got, fmt.Sprintf("%d %.4s %d", l.Number, l.Text, len(l.Text)))
	}
	want := []string{"1 one 3", "2 two 3", "3  0", "4 \uFFFD 3", "5 xxxx 65536", "6 xxxx 10", "7 end 3"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q", got)
	}
}

func TestASecretAcrossTheBoundIsNotCutIntoSight(t *testing.T) {
	for limit := range int64(40) {
		s, file, _ := testSink(limit, "hunter2-hunter2")
		for _, c := range []byte("the password is hunter2-hunter2, sorry\n") {
			if _, err := s.Write([]byte{c}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(file.String(), "hunter") {
			t.Errorf("limit %d: %s", limit, file.String())
		}
	}
}

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after -= len(p); b.after < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(p), nil
}

func TestAFullDiskIsAnErrorOnce(t *testing.T) {
	s := newSink("unit", newSecrets(nil), &broken{10}, nil, time.Now, 1<<20)
	if _, err := s.Write([]byte("12345\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("67890\n")); err == nil {
		t.Error("the loss goes unnoticed")
	}
	if err := s.close("note"); err == nil {
		t.Error("the loss is forgotten")
	}
}

func TestCluesAreFoundAcrossWrites(t *testing.T) {
	for _, c := range []struct {
		writes            []string
		network, readOnly bool
	}{
		{[]string{"go: dial t", "cp: lookup"}, true, false},
		{[]string{"getaddrinfo ENOTFOUND packages.example.test"}, true, false},
		{[]string{"touch: Read-only fi", "le system"}, false, true},
		{[]string{"go: writing stat cache: mkdir /x: read-only file system"}, false, false},
		{[]string{"all fine"}, false, false},
	} {
		var k clues
		for _, w := range c.writes {
			k.scan([]byte(w))
		}
		if k.network != c.network || k.readOnly != c.readOnly {
			t.Errorf("%q: got %+v", c.writes, k)
		}
	}
}
