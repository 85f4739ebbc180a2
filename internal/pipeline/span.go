package pipeline

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Span writes a duration for people, with at most two units: 350 ms, 1.5 s, 45 s,
// 3 min 20 s, 1 h 30 min, 2 d. YAML has Go's form: [Short].
func Span(d time.Duration) string {
	d = max(d, 0)
	if d >= time.Millisecond && d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	if tenths := d.Round(100 * time.Millisecond); d < 10*time.Second && tenths%time.Second != 0 {
		return strconv.FormatFloat(tenths.Seconds(), 'f', 1, 64) + " s"
	}
	s := int64(d.Round(time.Second) / time.Second)
	units := []struct {
		name       string
		size, from int64 // from: how much of it there must be
	}{{"d", 86400, 2}, {"h", 3600, 1}, {"min", 60, 1}, {"s", 1, 1}}
	for i, u := range units {
		if s < u.size*u.from {
			continue
		}
		out := fmt.Sprintf("%d %s", s/u.size, u.name)
		if i+1 < len(units) {
			if rest := s % u.size / units[i+1].size; rest > 0 {
				out += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return out
	}
	return "0 s"
}

var goDuration = regexp.MustCompile(`\b(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?(?:[mµ]?s|m|h)\b`)

// PlainTimes writes the durations in a sentence as [Span] does: for 8m18s it has 8 min
// 18 s. What is quoted as code, and parts of names, stay as they are.
func PlainTimes(text string) string {
	var b strings.Builder
	at, code := 0, false
	for _, m := range goDuration.FindAllStringIndex(text, -1) {
		between := text[at:m[0]]
		code = code != (strings.Count(between, "`")%2 == 1)
		b.WriteString(between)
		word := text[m[0]:m[1]]
		if d, err := time.ParseDuration(word); err == nil && !code && !adjoins(text[:m[0]], text[m[1]:]) {
			word = Span(d)
		}
		b.WriteString(word)
		at = m[1]
	}
	b.WriteString(text[at:])
	return b.String()
}

// adjoins reports whether what stands between two texts is a part of a longer word.
func adjoins(before, after string) bool {
	const joins = "-/_.=:'\""
	ends := func(s, joins string, i int) bool { return s != "" && strings.IndexByte(joins, s[i]) >= 0 }
	if ends(before, joins, max(len(before)-1, 0)) {
		return true
	}
	if strings.HasPrefix(after, ".") || strings.HasPrefix(after, ":") {
		return len(after) > 1 && after[1] > ' '
	}
	return ends(after, "-/_='\"", 0)
}
