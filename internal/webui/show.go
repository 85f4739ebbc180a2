package webui

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
)

type (
	gateDecision = gate.Decision
	change       = control.Change
)

func (a action) id() string {
	s := "act-" + string(a.Kind)
	if a.Full {
		s += "-full"
	}
	if a.Override {
		s += "-override"
	}
	return s
}

// runMark is a run's state, with what its environment adds to it.
func runMark(s control.Status) mark {
	m := outcomeMark(s.State)
	if over(s.State) {
		return m
	}
	for _, e := range s.Environments {
		switch {
		case e.Stuck:
			return mark{"alarm", "rollback stuck", "bad"}
		case e.State == run.RollingBack:
		case e.Paused:
			return mark{"pause", "paused", "warn"}
		case e.Frozen:
			return mark{"alarm", "frozen", "bad"}
		case e.Held != "":
			return mark{"wait", "held", "warn"}
		}
	}
	return m
}

func cellMark(c control.Cell) mark {
	if c.State == "" && c.Candidate == "" {
		return mark{"todo", "nothing runs", "idle"}
	}
	if c.Candidate == "" && c.State == run.Succeeded {
		return mark{"ok", "stable", "good"}
	}
	if c.Stuck {
		return mark{"alarm", "rollback stuck", "bad"}
	}
	return outcomeMark(c.State)
}

// headline says in one sentence how things stand.
func headline(v *overviewView) string {
	places, astray := 0, 0
	for _, s := range v.Services {
		places += len(s.Cells)
		for _, c := range s.Cells {
			if c.Candidate == "" && c.WaitingFor != "" {
				astray++
			}
		}
	}
	where := fmt.Sprintf("%s in %s", plural(len(v.Services), "service", "services"), plural(places, "place", "places"))
	if places == 0 {
		where = "nothing runs yet"
	}
	switch {
	case len(v.Waiting) > 0 && len(v.Moving) > 0:
		return sentence(fmt.Sprintf("%s for a person, %s: %s", waitWord(len(v.Waiting)), moveWord(len(v.Moving)), where))
	case len(v.Waiting) > 0:
		return sentence(fmt.Sprintf("%s for a person: %s", waitWord(len(v.Waiting)), where))
	case len(v.Moving) > 0:
		return sentence(fmt.Sprintf("%s: %s", moveWord(len(v.Moving)), where))
	}
	if astray > 0 {
		return sentence(fmt.Sprintf("no run is under way; %s: %s", lookWord(astray), where))
	}
	return sentence("all quiet: " + where)
}

func lookWord(n int) string {
	if n == 1 {
		return "1 place is to be looked at"
	}
	return count(n) + " places are to be looked at"
}

func waitWord(n int) string {
	if n == 1 {
		return "1 run waits"
	}
	return count(n) + " runs wait"
}

func moveWord(n int) string {
	if n == 1 {
		return "1 run is under way"
	}
	return count(n) + " runs are under way"
}

func olderURL(f store.RunFilter, before string) string {
	q := url.Values{"before": {before}}
	if f.Service != "" {
		q.Set("service", f.Service)
	}
	return "/runs?" + q.Encode()
}

// number writes a number for an attribute.
func number(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "0"
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func p99(s float64) string {
	if s <= 0 || math.IsNaN(s) || math.IsInf(s, 0) {
		return "–"
	}
	return strconv.FormatFloat(s*1000, 'f', 1, 64) + " ms"
}

// splitCode cuts text at its backticks: each second part is code. Text whose
// backticks are not in pairs is one part.
func splitCode(s string) []string {
	parts := strings.Split(s, "`")
	if len(parts)%2 == 0 {
		return []string{s}
	}
	return parts
}

// tests sums up a step's reports in words.
func tests(t *run.Tests) string {
	s := count(t.Passed) + " tests passed"
	if t.Passed == 1 {
		s = "1 test passed"
	}
	if t.Failed > 0 {
		s += ", " + count(t.Failed) + " failed"
	}
	if t.Skipped > 0 {
		s += ", " + count(t.Skipped) + " skipped"
	}
	return s
}

func join(list []string) string { return strings.Join(list, ", ") }
