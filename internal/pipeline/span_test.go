package pipeline

import (
	"strings"
	"testing"
	"time"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", -time.Second: "0 s", 400 * time.Microsecond: "0 s", 350 * time.Millisecond: "350 ms", 1500 * time.Millisecond: "1.5 s", 2040 * time.Millisecond: "2 s",
		9970 * time.Millisecond: "10 s", 14119 * time.Millisecond: "14 s", 90 * time.Second: "1 min 30 s", time.Hour: "1 h", 90 * time.Minute: "1 h 30 min",
		24 * time.Hour: "24 h", 26*time.Hour + 5*time.Minute: "26 h 5 min", 50 * time.Hour: "2 d 2 h", 168 * time.Hour: "7 d",
	} {
		if got := Span(d); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}

func TestPlainTimes(t *testing.T) {
	for text, want := range map[string]string{
		"for 6m42s of 15m0s, 5s, 1h0m0s, 10ms, v15, 3 s": "for 6 min 42 s of 15 min, 5 s, 1 h, 10 ms, v15, 3 s",
		"not back after 1.003588s: waits":                "not back after 1 s: waits",
		"took 14.119s.":                                  "took 14 s.",
		"write `bake: 1h` for 1h":                        "write `bake: 1h` for 1 h",
		"gate wait-1h of shop/1m, soak_5s, 1.5h":         "gate wait-1h of shop/1m, soak_5s, 1 h 30 min",
		"release 5c4501a152 at 12:05m":                   "release 5c4501a152 at 12:05m",
		"":                                               "", "5s": "5 s", "(5s)": "(5 s)",
	} {
		if got := PlainTimes(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func FuzzPlainTimes(f *testing.F) {
	for _, s := range []string{"for 6m42s", "`1h` 1h", "wait-1h", "9999999999999h", "1.5µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := PlainTimes(s)
		if !strings.ContainsAny(s, "0123456789") && got != s {
			t.Errorf("%q became %q", s, got)
		}
		if len(got) > 8*len(s)+8 {
			t.Errorf("%d bytes became %d", len(s), len(got))
		}
	})
}
