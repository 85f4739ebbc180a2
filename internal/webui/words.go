package webui

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

// mark is a state as it is shown: an icon and a word, and a tone that only
// repeats what these say.
type mark struct {
	Icon string
	Word string
	Tone string // good, bad, warn, busy, idle
}

func outcomeMark(o run.Outcome) mark {
	switch o {
	case run.Running:
		return mark{"busy", "running", "busy"}
	case run.Waiting:
		return mark{"wait", "waiting", "warn"}
	case run.RollingBack:
		return mark{"back", "rolling back", "bad"}
	case run.Succeeded:
		return mark{"ok", "succeeded", "good"}
	case run.Failed:
		return mark{"bad", "failed", "bad"}
	case run.RolledBack:
		return mark{"back", "rolled back", "bad"}
	case run.RollbackFailed:
		return mark{"alarm", "rollback failed", "bad"}
	case run.Cancelled:
		return mark{"stop", "cancelled", "idle"}
	case run.Superseded:
		return mark{"skip", "superseded", "idle"}
	case "":
		return mark{"todo", "not started", "idle"}
	}
	return mark{"todo", string(o), "idle"} // pending, and what a later build may add
}

func phaseMark(p rollout.Phase) mark {
	if p.Terminal() {
		return outcomeMark(run.Outcome(p)) // an ended rollout's phase is its run's outcome
	}
	return mark{"busy", string(p), "busy"}
}

func stepMark(state string) mark {
	switch state {
	case "running":
		return mark{"busy", "running", "busy"}
	case "succeeded":
		return mark{"ok", "succeeded", "good"}
	case "failed":
		return mark{"bad", "failed", "bad"}
	case "timed-out":
		return mark{"bad", "timed out", "bad"}
	case "cancelled":
		return mark{"stop", "cancelled", "idle"}
	case "skipped":
		return mark{"skip", "skipped", "idle"}
	case "reused":
		return mark{"same", "reused", "good"}
	}
	return mark{"todo", "pending", "idle"}
}

func verdictMark(v verdict.Verdict) mark {
	switch v {
	case verdict.Pass:
		return mark{"ok", "pass", "good"}
	case verdict.Fail:
		return mark{"bad", "fail", "bad"}
	case verdict.Inconclusive:
		return mark{"wait", "inconclusive", "warn"}
	case verdict.NoData:
		return mark{"todo", "no data", "warn"}
	}
	return mark{"todo", "no verdict yet", "idle"}
}

func gateMark(a gate.Answer) mark {
	switch a {
	case gate.Pass:
		return mark{"ok", "pass", "good"}
	case gate.Fail:
		return mark{"bad", "fail", "bad"}
	}
	return mark{"wait", "waiting", "warn"}
}

func wayMark(kind string) mark {
	switch kind {
	case "warm":
		return mark{"ok", "warm", "good"}
	case "cold":
		return mark{"wait", "cold", "warn"}
	}
	return mark{"bad", "impossible", "bad"}
}

// gateRisk names the risk that a gate of that name removes.
func gateRisk(d gate.Decision) string {
	switch name, _, _ := strings.Cut(d.Gate, ":"); name {
	case "after":
		return pipeline.PathRisk
	case pipeline.WayBack:
		return "a release from which there is no way back"
	case pipeline.Rehearsed:
		return "a way back that nobody tried for long"
	case pipeline.NotQuarantined:
		return "a release that was taken back once already"
	case pipeline.TestsPassed:
		return pipeline.GateRisk(pipeline.Gate{Name: name})
	}
	return "a release that breaks a rule of this environment"
}

// stepWords tells one step of a plan in a few words.
func stepWords(p rollout.PlanStep) string {
	switch p.Kind {
	case rollout.StepPrepare:
		return "start the candidate, without users"
	case rollout.StepCheck:
		return "check: " + strings.Join(p.Checks, ", ")
	case rollout.StepShift:
		return "move " + weight(p.Weight) + " of users"
	case rollout.StepBake:
		s := "bake for " + span(p.Bake) + " at " + weight(p.Weight)
		if p.Shadow > 0 {
			s = "bake for " + span(p.Bake) + " on copies of " + weight(p.Shadow) + " of requests"
		}
		switch {
		case !p.Analysis:
			return s + ", not judged"
		case p.Basis == rollout.BasisConcurrent:
			return s + ", judged against the stable at the same time"
		case p.Basis == rollout.BasisBeforeAfter:
			return s + ", judged against the stable before"
		}
		return s + ", judged by absolute limits"
	case rollout.StepReplace:
		return "replace instances: " + groups(p) + ", " + weight(p.Weight) + " of users"
	case rollout.StepHold:
		return "wait for a person"
	case rollout.StepRetire:
		return "take the old release out of traffic"
	}
	return string(p.Kind)
}

// groups are the instances of a counted plan from a step on.
func groups(p rollout.PlanStep) string { return fmt.Sprintf("%d new, %d old", p.Run, p.Keep) }

// percent writes a share in percent: 5 %, 0.25 %.
func percent(p float64) string {
	return strconv.FormatFloat(math.Round(p*100)/100, 'f', -1, 64) + " %"
}

// weight writes basis points as percent.
func weight(basisPoints int) string { return percent(float64(basisPoints) / 100) }

// rate writes bad of all as percent, with the digits that the count supports.
func rate(bad, all int64) string {
	if all <= 0 {
		return "–"
	}
	p := 100 * float64(bad) / float64(all)
	digits := 2
	if p >= 10 || bad == 0 {
		digits = 1
	}
	return strconv.FormatFloat(p, 'f', digits, 64) + " %"
}

// count writes 1234567 as 1 234 567, with narrow spaces that don't break.
func count[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return sign + s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n < 1000:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1000*1000:
		return strconv.FormatFloat(float64(n)/1e3, 'f', 1, 64) + " kB"
	case n < 1000*1000*1000:
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " MB"
	}
	return strconv.FormatFloat(float64(n)/1e9, 'f', 1, 64) + " GB"
}

// span writes a duration with at most two units: 45 s, 3 min 20 s, 2 h.
func span(d time.Duration) string { return pipeline.Span(d) }

func seconds(s float64) string {
	if math.IsNaN(s) || s < 0 || s > 1e9 {
		return "–"
	}
	return span(time.Duration(s * float64(time.Second)))
}

// ago tells how long before now t was.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	if d < 5*time.Second {
		return "just now"
	}
	if d < time.Minute {
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	}
	if d < time.Hour {
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	}
	if d < 48*time.Hour {
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d d ago", int(d.Hours()/24))
}

// in tells how long after now t is.
func in(now, t time.Time) string {
	if !t.After(now) {
		return "now"
	}
	return "in " + span(t.Sub(now).Truncate(time.Minute)+time.Minute)
}

// clock is the time of day: pages know no zone of who looks.
func clock(t time.Time) string { return t.UTC().Format("15:04 UTC") }

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
func iso(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// short cuts a commit to what people compare.
func short(commit string) string {
	if len(commit) > 10 {
		return commit[:10]
	}
	return commit
}

// sentence makes text begin with a capital and end with a full stop.
func sentence(s string) string {
	s = plainTimes(strings.TrimSpace(s))
	if s == "" {
		return ""
	}
	// A word of the language gets its capital; a name such as http-errors or
	// "production:" stays as it is typed.
	first, _, _ := strings.Cut(s, " ")
	if r, n := utf8.DecodeRuneInString(s); unicode.IsLower(r) && first != "sluice" && !strings.ContainsFunc(strings.TrimRight(first, ",.;"), func(r rune) bool { return !unicode.IsLetter(r) }) {
		s = string(unicode.ToUpper(r)) + s[n:]
	}
	if !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "!") && !strings.HasSuffix(s, "?") {
		s += "."
	}
	return s
}

// plainTimes writes 8m18s as 8 min 18 s.
func plainTimes(s string) string { return pipeline.PlainTimes(s) }

func runURL(id string) string { return "/runs/" + url.PathEscape(id) }

func stepURL(id, step string) string { return runURL(id) + "/steps/" + url.PathEscape(step) }

func placeURL(service, env string) string {
	return "/services/" + url.PathEscape(service) + "/environments/" + url.PathEscape(env)
}

func evidenceURL(name, value string) string {
	return "/evidence?" + url.Values{name: {value}}.Encode()
}

func feedURL(run string, after int64) string {
	q := url.Values{"after": {strconv.FormatInt(after, 10)}}
	if run != "" {
		q.Set("run", run)
	}
	return "/api/v1/projects/" + project + "/events?" + q.Encode()
}

// anchor makes an id of the page from a name.
func anchor(kind, name string) string {
	return kind + "-" + strings.Map(func(r rune) rune {
		if r == '-' || r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '-'
	}, name)
}

func shortDigest(d string) string {
	d = strings.TrimPrefix(d, "sha256:")
	if len(d) > 12 {
		return d[:12]
	}
	return d
}
