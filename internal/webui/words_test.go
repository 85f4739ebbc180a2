package webui

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/rollout"
)

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		span(0): "0 s", span(-time.Second): "0 s", span(41 * time.Millisecond): "41 ms", span(6200 * time.Millisecond): "6.2 s", span(45 * time.Second): "45 s",
		span(200 * time.Second): "3 min 20 s", span(2 * time.Hour): "2 h", span(26*time.Hour + time.Minute): "26 h 1 min",
		percent(5): "5 %", percent(0.254): "0.25 %", weight(10000): "100 %", weight(1): "0.01 %",
		rate(0, 0): "–", rate(0, 10): "0.0 %", rate(1, 3): "33.3 %", rate(2, 4310): "0.05 %",
		count(7): "7", count(1234567): "1\u202f234\u202f567", count(-1000): "-1\u202f000",
		size(999): "999 B", size(13_482_911): "13.5 MB", size(2_000_000_000): "2.0 GB",
		sentence("it ended"): "It ended.", sentence("http-errors: bad"): "http-errors: bad.", sentence("sluice run"): "sluice run.", sentence(" "): "", sentence("Why?"): "Why?",
		sentence("not back after 1m30s: `1h`"): "Not back after 1 min 30 s: `1h`.", sentence("unknown; x"): "Unknown; x.", sentence("été"): "Été.",
		plainTimes("for 6m42s of 15m0s, 5s, 1h0m0s, 10ms, v15, 3 s"): "for 6 min 42 s of 15 min, 5 s, 1 h, 10 ms, v15, 3 s",
		ago(noon, noon.Add(time.Hour)):                               "just now", ago(noon, at(90*time.Second)): "1 min ago", ago(noon, at(72*time.Hour)): "3 d ago",
		in(noon, noon.Add(-time.Hour)): "now", in(noon, noon.Add(90*time.Second)): "in 2 min",
		typeName("https://slsa.dev/provenance/v1"): "provenance", typeName("https://sluice.dev/gate-decision/v1"): "gate decision", typeName("x"): "x", typeName("https://a/v1"): "v1",
		stepWords(rollout.PlanStep{Kind: rollout.StepReplace, Weight: 2500, Run: 1, Keep: 3}): "replace instances: 1 new, 3 old, 25 % of users",
		short("0123456789abcdef"): "0123456789", plural(1, "run", "runs"): "1 run", plural(0, "run", "runs"): "0 runs",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTrack(t *testing.T) {
	for step, want := range map[int]string{
		0: "Start=now 5 %=todo 25 %=todo 100 %=todo Check=todo Finish=todo",
		1: "Start=done 5 %=now 25 %=todo 100 %=todo Check=todo Finish=todo",
		2: "Start=done 5 %=now 25 %=todo 100 %=todo Check=todo Finish=todo",
		3: "Start=done 5 %=done 25 %=now 100 %=todo Check=todo Finish=todo",
		6: "Start=done 5 %=done 25 %=done 100 %=now Check=todo Finish=todo",
		8: "Start=done 5 %=done 25 %=done 100 %=done Check=done Finish=now",
	} {
		e := baking()
		e.Step = step
		if got := trackOf(e); got != want {
			t.Errorf("at step %d it is %s, want %s", step, got, want)
		}
	}
	e := baking()
	e.Phase, e.Step = rollout.RollingBack, 3
	if got, want := trackOf(e), "Start=done 5 %=done 25 %=stopped 100 %=never Check=never Finish=never"; got != want {
		t.Errorf("rolling back it is %s, want %s", got, want)
	}
	e.Phase, e.Step = rollout.Pending, 0
	if got := trackOf(e); !strings.HasPrefix(got, "Start=now") {
		t.Errorf("pending it is %s", got)
	}
}

func trackOf(e control.EnvironmentStatus) string {
	var parts []string
	for _, s := range (&ui{}).envView(e).Track {
		parts = append(parts, s.Title+"="+s.State)
	}
	return strings.Join(parts, " ")
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb\n":                          "a\nb\n",
		"\x1b[1;32mok\x1b[0m":             "ok",
		"\x1b]8;;https://x\x07link\x1b\\": "link",
		"10 %\r20 %\rdone\nnext":          "done\nnext",
		"dos\r\nline\r":                   "dos\nline",
		"bell\x07 nul\x00":                `bell\a nul\x00`,
		"\u202eevil":                      `\u202eevil`,
		"é \xff":                          "é \ufffd",
		"\x1b":                            "", "\x1b[": "", "\x1b[3": "", "\x1b(B": "", "\x1b(": "", "\x1b7x": "x", "\x1b\n": "\n", "\x1b]never ends\nx": "\nx", "\x1b[31\nx": "\nx",
	} {
		if got := plainText(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzPlainText(f *testing.F) {
	for _, s := range []string{"a\r\nb", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "\x1bP\x1b\\", "x\ry\rz", "\xf0\x28", "\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := plainText(s)
		if strings.ContainsFunc(got, func(r rune) bool {
			return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r))
		}) {
			t.Errorf("%q became %q", s, got)
		}
		if strings.Count(got, "\n") > strings.Count(s, "\n") {
			t.Errorf("%q got more lines: %q", s, got)
		}
		if again := plainText(got); again != got {
			t.Errorf("%q is not plain: %q", got, again)
		}
	})
}
