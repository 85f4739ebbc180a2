package webui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/internal/analysis"
	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/gate"
	"github.com/sluicehq/sluice/internal/preview"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/rollout"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/store"
	"github.com/sluicehq/sluice/internal/verdict"
)

// fake is a control plane at one moment of a working day. Commands are noted,
// and answered with what refuse holds for their kind.
type fake struct {
	mu      sync.Mutex
	now     time.Time
	runs    []control.Status // newest first
	explain map[string]control.Explanation
	packets map[string]store.Packet
	cells   []control.Cell
	logs    map[string]string
	open    map[string]bool // logs that go on
	leaves  []store.Leaf
	banned  []store.Quarantine
	way     control.Way
	wayErr  error
	feed    []store.Feed
	topic   chan string
	refuse  map[string]error
	told    []string
	stale   bool // commands find another revision than they name
	err     error
}

var _ Control = (*fake)(nil)

func (f *fake) note(format string, args ...any) error {
	f.told = append(f.told, fmt.Sprintf(format, args...))
	return nil
}

func (f *fake) Overview(context.Context, string) ([]control.Cell, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.cells), f.err
}

func (f *fake) Runs(_ context.Context, q store.RunFilter) ([]control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []control.Status
	for _, s := range f.runs {
		if q.Live != nil && *q.Live == over(s.State) || q.Service != "" && q.Service != s.Service || q.Before != "" && s.Run >= q.Before {
			continue
		}
		if len(out) < q.Limit {
			s.Environments = slices.Clone(s.Environments)
			out = append(out, s)
		}
	}
	return out, f.err
}

func (f *fake) Status(_ context.Context, _, id string, points bool) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.runs {
		if s.Run == id {
			s.Environments = slices.Clone(s.Environments)
			for i := range s.Environments {
				if !points {
					s.Environments[i].Points = nil
				}
			}
			return s, f.err
		}
	}
	return control.Status{}, fmt.Errorf("%w: there is no run %q", control.ErrMissing, id)
}

func (f *fake) Explain(_ context.Context, _, id string) (control.Explanation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.explain[id], f.err
}

func (f *fake) PacketOf(_ context.Context, _, id, env string) (store.Packet, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.packets[id+"/"+env]
	if !ok {
		return p, control.ErrMissing
	}
	return p, nil
}

func (f *fake) Log(_ context.Context, _, id, step string, offset int64) (control.StepLog, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.ContainsFunc(f.runs, func(s control.Status) bool { return s.Run == id }) {
		return control.StepLog{}, fmt.Errorf("%w: there is no run %q", control.ErrMissing, id)
	}
	const chunk = 1000 // smaller than any real one, so that reading on is tried
	text := f.logs[id+"/"+step]
	if offset > int64(len(text)) {
		offset = int64(len(text))
	}
	part := text[offset:min(int64(len(text)), offset+chunk)]
	next := offset + int64(len(part))
	return control.StepLog{Text: part, Next: next, Done: next == int64(len(text)) && !f.open[id+"/"+step]}, nil
}

func (f *fake) Leaves(_ context.Context, _ string, q store.LeafFilter) ([]store.Leaf, error) {
	var out []store.Leaf
	for i, l := range f.leaves {
		l.Number = int64(i) + 1
		if (q.Run == "" || q.Run == l.Run) && (q.Subject == "" || q.Subject == l.Subject) && (q.Environment == "" || q.Environment == l.Environment) && (q.Before == 0 || l.Number < q.Before) {
			out = append(out, l)
		}
	}
	if q.Limit > 0 {
		out = out[max(0, len(out)-q.Limit):]
	}
	return out, f.err
}

func (f *fake) CountLeaves(ctx context.Context, project string, q store.LeafFilter) (int64, error) {
	q.Before, q.Limit = 0, 0
	all, err := f.Leaves(ctx, project, q)
	return int64(len(all)), err
}

func (f *fake) FindRelease(_ context.Context, _, prefix string) (store.Release, error) {
	for _, id := range []release.ID{rel1, rel2, rel3} {
		if len(prefix) > 3 && len(prefix) <= 64 && id.Hex()[:len(prefix)] == prefix {
			return store.Release{ID: id}, nil
		}
	}
	return store.Release{}, fmt.Errorf("%w: there is no release %q", control.ErrMissing, prefix)
}

func (f *fake) WayBack(context.Context, string, string, string, string) (control.Way, error) {
	return f.way, f.wayErr
}

func (f *fake) Quarantines(context.Context, string, string) ([]store.Quarantine, error) {
	return f.banned, nil
}

func (f *fake) FeedEnd(context.Context) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.feed)), nil
}

func (f *fake) Rollout(_ context.Context, _, id string, cmd control.Command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse[string(cmd.Kind)]; err != nil {
		return err
	}
	if cmd.Revision != 0 && f.stale {
		return fmt.Errorf("%w: the rollout is at another revision", store.ErrStale)
	}
	if cmd.Kind == rollout.Pause {
		for i, s := range f.runs {
			if s.Run == id {
				e := &f.runs[i].Environments[len(s.Environments)-1]
				e.Paused = true
				e.State = run.Waiting
				x := f.explain[id]
				x.Now, x.Why = "paused while "+x.Now, "it was paused by local:root; a fail verdict or a crash still rolls it back"
				x.Choices = choicesOf("sluice resume "+id+" --env production   goes on", "sluice abort "+id+" --env production   moves all users back to the previous release")
				f.explain[id] = x
			}
		}
	}
	return f.note("%s %s %s full=%t override=%t revision=%d reason=%q by=%s", cmd.Kind, id, cmd.Environment, cmd.Full, cmd.Override, cmd.Revision, cmd.Reason, cmd.By)
}

func (f *fake) Decide(_ context.Context, _, id, env string, packet release.Digest, approve bool, comment string, by release.Actor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse["decide"]; err != nil {
		return err
	}
	return f.note("decide %s %s %s approve=%t comment=%q by=%s", id, env, packet.Short(), approve, comment, by)
}

func (f *fake) Rehearse(_ context.Context, _, service, env, reason string, by release.Actor) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse["rehearse"]; err != nil {
		return "", err
	}
	return "12", f.note("rehearse %s %s reason=%q by=%s", service, env, reason, by)
}

// choicesOf reads lines ("sluice VERB …   what it does"), and advice.
func choicesOf(lines ...string) []control.Choice {
	var out []control.Choice
	for _, line := range lines {
		command, text, _ := strings.Cut(line, "   ")
		argv := strings.Fields(command)
		if len(argv) < 2 || argv[0] != "sluice" {
			out = append(out, control.Choice{Text: line})
			continue
		}
		out = append(out, control.Choice{Command: argv[1], Argv: argv, Text: text})
	}
	return out
}

func (f *fake) Rollback(_ context.Context, _, service, env, to, reason string, by release.Actor) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refuse["rollback"]; err != nil {
		return "", err
	}
	return "12", f.note("rollback %s %s to=%s reason=%q by=%s", service, env, to, reason, by)
}

func (f *fake) Lift(_ context.Context, _, service, prefix, reason string, by release.Actor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.note("lift %s %s reason=%q by=%s", service, shortDigest(prefix), reason, by)
}

// happen adds a line to the feed.
func (f *fake) happen(id, kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(id, kind)
}

// add is happen for who has the lock.
func (f *fake) add(id, kind string) {
	f.feed = append(f.feed, store.Feed{Seq: int64(len(f.feed) + 1), Run: id, Kind: kind, At: f.now, Data: json.RawMessage(`{}`)})
	select {
	case f.topic <- "feed":
	default:
	}
}

// badge is an access check that lets in who carries the cookie.
type badge struct{}

const goodToken = "correct-horse-battery"

func (badge) Allowed(r *http.Request) bool {
	c, err := r.Cookie("sluice-session")
	return err == nil && c.Value == "good"
}

func (badge) Login(w http.ResponseWriter, _ *http.Request, code, token string) bool {
	if code != "once" && token != goodToken {
		return false
	}
	http.SetCookie(w, &http.Cookie{Name: "sluice-session", Value: "good", Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return true
}

func (badge) Logout(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: "sluice-session", Path: "/", MaxAge: -1})
}

var (
	noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	rel1 = release.DigestOf([]byte("release 1"))
	rel2 = release.DigestOf([]byte("release 2"))
	rel3 = release.DigestOf([]byte("release 3"))
)

const (
	commit1 = "4f2c9d81b6a07e35c1d98f04a2b7e6c35d80917a"
	commit2 = "9be1720f6cd3485ab01e7fd24c6893e5a7b10c2d"
	commit3 = "c07d5a3be8914f6620de37b195ac8f41d2e6b093"
)

func at(ago time.Duration) time.Time { return noon.Add(-ago) }

func ptr[T any](v T) *T { return &v }

func buildSteps(states ...string) []run.Step {
	kinds := []struct{ name, kind string }{{"deps", "fetch"}, {"vet", "lint"}, {"test", "unit"}, {"binary", "package"}}
	var out []run.Step
	for i, k := range kinds {
		s := run.Step{Name: k.name, Kind: k.kind, State: states[i]}
		if s.State == "succeeded" || s.State == "failed" {
			s.Reason = "exit code 0"
			s.Started, s.Ended = ptr(at(20*time.Minute)), ptr(at(20*time.Minute-7*time.Second))
		}
		if s.State == "running" {
			s.Started = ptr(at(4 * time.Second))
		}
		if k.name == "test" && s.Ended != nil {
			s.Tests = &run.Tests{Passed: 148, Skipped: 2}
			if s.State == "failed" {
				s.Exit, s.Reason, s.Tests.Failed = 1, "exit code 1", 3
			}
		}
		out = append(out, s)
	}
	return out
}

func allPassed() []run.Step { return buildSteps("succeeded", "succeeded", "succeeded", "succeeded") }

var canaryPlan = []rollout.PlanStep{
	{Kind: rollout.StepPrepare},
	{Kind: rollout.StepShift, Weight: 500},
	{Kind: rollout.StepBake, Weight: 500, Bake: 15 * time.Minute, Basis: rollout.BasisConcurrent, Analysis: true},
	{Kind: rollout.StepShift, Weight: 2500},
	{Kind: rollout.StepBake, Weight: 2500, Bake: 15 * time.Minute, Basis: rollout.BasisConcurrent, Analysis: true},
	{Kind: rollout.StepShift, Weight: 10000},
	{Kind: rollout.StepBake, Weight: 10000, Bake: 5 * time.Minute, Basis: rollout.BasisBeforeAfter, Analysis: true},
	{Kind: rollout.StepCheck, Weight: 10000, Checks: []string{"smoke"}},
	{Kind: rollout.StepRetire, Weight: 10000},
}

var gatesPassed = []gate.Decision{
	{Gate: "after:dev", Answer: gate.Pass, Reason: "this very release succeeded in dev"},
	{Gate: "tests-passed", Answer: gate.Pass, Reason: "148 tests passed, 2 were skipped"},
	{Gate: "size", Answer: gate.Pass, Reason: "artifact.size < 200000000 holds"},
}

func points(n int, bad float64) []control.Point {
	var out []control.Point
	for i := range n {
		w := 500
		if i > n/2 {
			w = 2500
		}
		nc := int64(w/50) + int64(i*7%5)
		nb := int64(10000-w)/50 + int64(i*11%9)
		kc := int64(0)
		if i > n/2 {
			kc = int64(bad * float64(nc) * (0.8 + float64(i*13%7)/15))
		}
		p := control.Point{At: at(time.Duration(n-i) * 5 * time.Second), KC: kc, NC: nc, KB: int64(i * 17 % 23 / 22), NB: nb, W: w,
			C99: 0.041 + float64(i*29%17)/1000, B99: 0.039 + float64(i*31%13)/1000}
		if i == 5 {
			p.NC, p.KC, p.C99 = 0, 0, 0
		}
		out = append(out, p)
	}
	return out
}

func status(id, service, commit string, rel release.ID, state run.Outcome, ago time.Duration) control.Status {
	s := control.Status{
		Run: id, Kind: run.KindRun, Project: "default", Service: service, Repository: "/home/ana/" + service, Commit: commit, Release: rel,
		State: state, Actor: "local:ana", Steps: allPassed(), CreatedAt: at(ago + 20*time.Minute), UpdatedAt: at(ago),
	}
	if rel != "" {
		s.Artifacts = []release.Artifact{{Name: "main", Type: "files", Digest: release.DigestOf([]byte(commit)), Size: 13_482_911}}
	}
	return s
}

func devDone(rel release.ID) control.EnvironmentStatus {
	return control.EnvironmentStatus{Name: "dev", State: run.Succeeded, Release: rel, PreviousRelease: rel1, Strategy: "all-at-once", Phase: rollout.Succeeded, Rollout: "o3",
		Weight: 100, Verdict: verdict.Pass, Gates: gatesPassed[1:2], Plan: []rollout.PlanStep{{Kind: rollout.StepPrepare}, {Kind: rollout.StepShift, Weight: 10000}, {Kind: rollout.StepRetire, Weight: 10000}}, Step: 2, Steps: 3}
}

func baking() control.EnvironmentStatus {
	return control.EnvironmentStatus{
		Name: "production", State: run.Running, Release: rel2, PreviousRelease: rel1, Strategy: "canary", Phase: rollout.Baking, Rollout: "o5", Revision: 88,
		Step: 4, Steps: len(canaryPlan), Weight: 25, Verdict: verdict.Inconclusive, Plan: canaryPlan, Gates: gatesPassed,
		WaitingFor: "the judge has not passed it so far: http-errors: 2 of 4 310 requests failed; a canary at 0.9 % or more would have failed by now, and 0.5 points above the stable are not excluded yet",
		Bake:       &control.BakeStatus{ElapsedSeconds: 402, TotalSeconds: 900, Extended: 1},
		Forecast: &preview.Bake{
			NeedRPS: 12, CanaryRequests: 9820, Detectable: 0.007, ExpectedSecondsToPass: ptr(310.0), ChanceOfExtension: 0.12,
			Metrics: []preview.MetricBake{{Name: "http-errors", BaselineRate: 0.0004, DetectableSoFar: 0.009, PlanOutput: analysis.PlanOutput{CanaryRequests: 9820, Detectable: 0.007, ExpectedSecondsToPass: 310}}},
			Advice:  []string{"http-errors: the smallest canary rate that this bake can see is 0.70 % or more, not 0.54 %: it takes about 14 500 canary requests, so bake 22m0s, or raise the share to 37.0 %, or add 6 synthetic requests per second to the canary"},
			Running: &preview.Running{CanaryRPS: 10.7, MeasuredSeconds: 400, Undecided: "extended", RemainingSeconds: 498, EndsAt: noon.Add(498 * time.Second)},
		},
		Metrics: []analysis.Metric{
			{Name: "http-errors", Kind: "http-errors", Verdict: verdict.Inconclusive, Basis: "concurrent", KC: 2, NC: 4310, KB: 7, NB: 18211, Detectable: 0.009, Sentence: "2 of 4310 requests failed (0.05 %); the stable has 0.04 %. A rate 0.5 points above it is not excluded yet"},
			{Name: "http-latency", Kind: "http-latency", Verdict: verdict.Pass, Basis: "concurrent", KC: 38, NC: 4310, KB: 171, NB: 18211, Sentence: "38 of 4310 requests were slower than the stable's 99th percentile of 47 ms; at most 1.5 times as slow is proven"},
		},
		Signals: &control.Signals{CanaryRequests: 4310, CanaryBad: 2, StableRequests: 18211, StableBad: 7},
		Points:  points(120, 0.004),
	}
}

func rolledBack() control.EnvironmentStatus {
	e := baking()
	e.State, e.Phase, e.Verdict, e.Weight, e.Bake, e.Release, e.WaitingFor = run.RolledBack, rollout.RolledBack, verdict.Fail, 0, nil, rel3, ""
	e.Reason = "http-errors: 61 of 312 requests failed (19.6 %), the stable has 0.04 %: worse by more than 0.5 points, beyond chance"
	e.Metrics = []analysis.Metric{{Name: "http-errors", Kind: "http-errors", Verdict: verdict.Fail, Basis: "concurrent", KC: 61, NC: 312, KB: 1, NB: 2480, Sentence: "61 of 312 requests failed (19.6 %), the stable has 0.04 %: worse by more than 0.5 points, beyond chance"}}
	e.Signals = &control.Signals{CanaryRequests: 318, CanaryBad: 62, StableRequests: 2503, StableBad: 1, RequestsToDetect: 312}
	e.RollbackMillis, e.DetectSeconds = ptr(int64(41)), ptr(6.2)
	e.Step, e.Points = 2, points(40, 0.2)
	return e
}

func packetBody(id string) ([]byte, release.Digest) {
	b, err := release.Canonical(control.Packet{
		Version: 1, Project: "default", Service: "checkout", Owner: "payments", Environment: "production", Run: id, Release: rel3, Commit: commit3,
		Artifacts: []release.Artifact{{Name: "main", Type: "files", Digest: release.DigestOf([]byte("a3")), Size: 13_511_004}},
		Tests:     gate.Tests{Reports: 1, Passed: 148, Skipped: 2}, Isolation: "namespaces", Gates: gatesPassed, Previous: rel2,
		Plan:    rollout.Plan{Engine: 1, Strategy: "canary", Steps: canaryPlan, Timeout: 30 * time.Minute, RollbackTimeout: 5 * time.Minute, RetireAfter: time.Hour},
		Changes: []control.Change{{Path: "env.LOG_LEVEL", Was: "info", Now: "debug"}, {Path: "env.NEW_PRICES", Now: "on"}},
		RollbackPlan: control.RollbackPlan{To: rel2, Kind: "warm", Sentence: "Release " + rel2.Short() + " keeps running at weight 0 for 1h0m0s after the rollout; all traffic goes back to it in one step, without registry or network.",
			Warm: "1h", Cold: "it must be started first, which takes at most 1m", OnFail: "At any time, also while paused or held, a failing verdict, health, check or timeout moves all users back to the previous release in one step.",
			Drill: &control.Drill{Run: "09", Environment: "dev", At: at(30 * time.Hour), Succeeded: true, Way: "cold", BackMillis: 9130, OnMillis: 1140}},
		Findings:   []string{"in the last rehearsal, in dev by run 09, going back took 9.1 s and going forward 1.1 s: the way back is slower than the deployment"},
		Monitoring: control.Monitoring{Metrics: []string{"http-errors", "http-latency"}, Owner: "payments"},
	})
	if err != nil {
		panic(err)
	}
	return b, release.DigestOf(b)
}

// newFake is that moment: a canary bakes, an approval waits, a build runs, a
// rollback is stuck, and there is some past.
func newFake() *fake {
	f := &fake{
		now: noon, explain: map[string]control.Explanation{}, packets: map[string]store.Packet{}, logs: map[string]string{}, open: map[string]bool{},
		refuse: map[string]error{}, topic: make(chan string, 1),
	}
	add := func(s control.Status, x control.Explanation, envs ...control.EnvironmentStatus) {
		x.Run, x.State = s.Run, string(s.State)
		s.Environments = envs
		f.runs, f.explain[s.Run] = append(f.runs, s), x
	}
	building := status("19", "invoices", commit1, "", run.Running, 4*time.Second)
	building.Steps = buildSteps("succeeded", "succeeded", "running", "pending")
	add(building, control.Explanation{Now: "the build runs", Why: "step test is running", Next: "the artifact is packed once, and gates are asked", When: "when all steps succeeded",
		Choices: choicesOf("sluice logs 19", "sluice abort 19")},
		control.EnvironmentStatus{Name: "dev", State: "pending", Strategy: "all-at-once"}, control.EnvironmentStatus{Name: "production", State: "pending", Strategy: "canary"})

	body, digest := packetBody("18")
	f.packets["18/production"] = store.Packet{Run: "18", Environment: "production", Digest: digest, Body: body, CreatedAt: at(12 * time.Minute), ExpiresAt: noon.Add(23*time.Hour + 48*time.Minute)}
	add(status("18", "checkout", commit3, rel3, run.Waiting, 12*time.Minute), control.Explanation{Environment: "production", Now: "the release is on its way into production",
		Why: "approval: 0 of 1 given; decide with `sluice approve 18 --env production`", Next: "the rollout starts as soon as the packet is approved", When: "at once after the decision",
		Choices: choicesOf("sluice approve 18 --env production", "sluice reject 18 --env production --comment …", "sluice abort 18")},
		devDone(rel3), control.EnvironmentStatus{Name: "production", State: run.Waiting, Release: rel3, PreviousRelease: rel2, Strategy: "canary", Packet: digest, Gates: gatesPassed,
			WaitingFor: "approval: 0 of 1 given; decide with `sluice approve 18 --env production`",
			Forecast:   &preview.Bake{Metrics: []preview.MetricBake{{Name: "http-errors", BaselineRate: 0.001, PlanOutput: analysis.PlanOutput{CanaryRequests: 1800, Detectable: 0.012, ExpectedSecondsToPass: 420}}}}})

	live := baking()
	add(status("12", "ledger", commit2, rel2, run.Running, 3*time.Second), control.Explanation{Environment: "production", Now: "baking at 25 % for 6m42s of 15m0s, extended once", Why: live.WaitingFor,
		Next: "on a pass the candidate gets 100 % of users; a fail rolls it back at any time", When: "in 8m18s",
		Choices: choicesOf("sluice advance 12 --env production --override --reason TEXT   goes on without a pass, which is recorded", "sluice pause 12 --env production   stops progress, not the reaction to failures",
			"sluice abort 12 --env production   moves all users back to the previous release")},
		devDone(rel2), live)

	stuck := baking()
	stuck.State, stuck.Phase, stuck.Stuck, stuck.Bake, stuck.Metrics, stuck.Points, stuck.Weight, stuck.Step = run.RollingBack, rollout.RollingBack, true, nil, nil, nil, 5, 2
	stuck.Reason, stuck.WaitingFor = "aborted by local:ben: prices are wrong", "host web-2 does not report"
	add(status("11", "search", commit2, rel2, run.RollingBack, 9*time.Minute), control.Explanation{Environment: "production", Now: "stuck rolling back for 9m12s: aborted by local:ben: prices are wrong",
		Why: "host web-2 does not report", Next: "it ends rolled back once every router is read at 0 % and the previous release is ready", When: "unknown; what is wanted is sent again every 5s",
		Choices: choicesOf("mend what is missing: the rollback then goes on by itself", "sluice give-up 11 --reason TEXT   leaves the target as it is")},
		devDone(rel2), stuck)

	add(status("10", "checkout", commit3, rel3, run.RolledBack, 3*time.Hour), control.Explanation{Now: "the run has ended: rolled-back", Why: "production: " + rolledBack().Reason, Next: "nothing", When: "never",
		Choices: choicesOf("sluice run   ships a fix", "sluice quarantine lift "+rel3.Short()+" --reason TEXT   lifts the quarantine, if the release is safe after all")},
		devDone(rel3), rolledBack())

	good := baking()
	good.State, good.Phase, good.Verdict, good.Weight, good.Bake, good.WaitingFor, good.Step = run.Succeeded, rollout.Succeeded, verdict.Pass, 100, nil, "", 8
	add(status("09", "checkout", commit2, rel2, run.Succeeded, 26*time.Hour), control.Explanation{Now: "the run has ended: succeeded", Next: "nothing", When: "never", Choices: choicesOf()}, devDone(rel2), good)

	broken := status("08", "invoices", commit3, "", run.Failed, 30*time.Hour)
	broken.Steps, broken.Reason = buildSteps("succeeded", "succeeded", "failed", "skipped"), "step test failed: exit code 1; `sluice logs 08 test` shows why"
	add(broken, control.Explanation{Now: "the run has ended: failed", Why: broken.Reason, Next: "nothing", When: "never", Choices: choicesOf()},
		control.EnvironmentStatus{Name: "dev", State: "pending", Strategy: "all-at-once"})

	old := status("07", "checkout", commit1, rel1, run.Cancelled, 60*time.Hour)
	old.Kind, old.Steps, old.Reason = run.KindPromote, []run.Step{}, "dev: aborted by local:ana"
	add(old, control.Explanation{Now: "the run has ended: cancelled", Why: old.Reason, Next: "nothing", When: "never", Choices: choicesOf()}, control.EnvironmentStatus{Name: "dev", State: run.Cancelled, Release: rel1, Strategy: "all-at-once", Reason: "aborted by local:ana"})

	key := func(service, env string) release.Key {
		return release.Key{Project: "default", Service: service, Environment: env}
	}
	f.cells = []control.Cell{
		{Key: key("checkout", "dev"), Release: rel3, Commit: commit3, State: run.Succeeded, Since: at(14 * time.Minute), Run: "18", Phase: rollout.Succeeded},
		{Key: key("checkout", "production"), Release: rel2, Commit: commit2, State: run.Succeeded, Since: at(26 * time.Hour), Run: "10", Phase: rollout.RolledBack, Verdict: verdict.Fail},
		{Key: key("ledger", "dev"), Release: rel2, Commit: commit2, State: run.Succeeded, Since: at(31 * time.Minute), Run: "12", Phase: rollout.Succeeded},
		{Key: key("ledger", "production"), Release: rel1, Commit: commit1, Candidate: rel2, Weight: 25, State: run.Running, Phase: rollout.Baking, Since: at(80 * time.Hour), Run: "12", WaitingFor: "the judge has not passed it so far: 2 of 4 310 requests failed"},
		{Key: key("search", "dev"), Release: rel2, Commit: commit2, State: run.Succeeded, Since: at(40 * time.Minute), Run: "11", Phase: rollout.Succeeded},
		{Key: key("search", "production"), Release: rel1, Commit: commit1, Candidate: rel2, Weight: 5, State: run.RollingBack, Phase: rollout.RollingBack, Since: at(200 * time.Hour), Run: "11", WaitingFor: "host web-2 does not report"},
	}
	f.logs["19/test"] = "=== RUN   TestTotals\n--- PASS: TestTotals (0.02s)\n\x1b[32mok\x1b[0m  \texample.com/invoices\t0.41s\n"
	f.open["19/test"] = true
	f.logs["08/test"] = "--- FAIL: TestRounding (0.00s)\n    money_test.go:41: got 10.01, want 10.00\nFAIL\nexit status 1\n"
	f.way = control.Way{Kind: "warm", From: rel2, To: rel1, Seconds: 1, Sentence: "release " + rel1.Short() + " still runs at weight 0: all traffic goes back to it in one step, in about 2 s, as the rehearsal of run 09 took on 2026-05-03. Release " + rel2.Short() + " is then quarantined, until a person lifts that",
		Measured: &control.Measured{Way: "warm", Millis: 1210, Run: "09", Drill: true, At: at(30 * time.Hour)}, Artifact: "it still runs on its hosts", Quarantines: rel2,
		Drill: &control.Drill{Run: "09", Environment: "production", At: at(30 * time.Hour), Succeeded: true, Way: "warm", BackMillis: 1210, OnMillis: 1140}}
	f.banned = []store.Quarantine{{Service: "checkout", Release: rel3, Reason: rolledBack().Reason, At: at(3 * time.Hour)},
		{Service: "checkout", Release: rel1, Reason: "x", At: at(90 * time.Hour), LiftedAt: ptr(at(80 * time.Hour)), LiftedBy: "local:ben", LiftedReason: "it was the load test"}}
	for i, l := range []struct {
		typ, predicate, env string
	}{
		{"https://slsa.dev/provenance/v1", `{"buildDefinition":{"buildType":"https://sluice.dev/build/v1"}}`, ""},
		{evidence.TypeGateDecision, `{"gate":"tests-passed","outcome":"pass","reason":"148 tests passed, 2 were skipped"}`, "production"},
		{evidence.TypeTestResult, `{"result":"FAILED","failedTests":["smoke"],"sluice_step":"smoke","sluice_byproducts":[{"name":"output/smoke","digest":{"sha256":"` + rel1.Hex() + `"},"mediaType":"text/plain"},{"name":"screenshot/smoke","digest":{"sha256":"` + rel2.Hex() + `"},"mediaType":"image/png"}]}`, "production"},
		{evidence.TypeVerdict, `{"verdict":"fail","sentence":"61 of 312 requests failed"}`, "production"},
	} {
		leaf := store.Leaf{Project: "default", ID: fmt.Sprint("leaf/", i), PredicateType: l.typ, Subject: rel3, Run: "10", Environment: l.env, At: at(3*time.Hour - time.Duration(i)*time.Minute), Envelope: envelope(l.typ, l.predicate)}
		if i < 3 {
			leaf.Index = ptr(int64(i))
		}
		f.leaves = append(f.leaves, leaf)
	}
	return f
}

// envelope is one that says so; nobody here checks its signature.
func envelope(typ, predicate string) []byte {
	s := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"release/default/checkout","digest":{"sha256":%q}}],"predicateType":%q,"predicate":%s}`, rel3.Hex(), typ, predicate)
	b, err := json.Marshal(map[string]any{"payloadType": "application/vnd.in-toto+json", "payload": []byte(s), "signatures": []map[string]any{{"keyid": "k", "sig": []byte("s")}}})
	if err != nil {
		panic(err)
	}
	return b
}

// withQueue adds a run that waits for its turn behind the canary.
func (f *fake) withQueue() {
	s := status("17", "ledger", commit3, rel3, run.Waiting, 2*time.Minute)
	s.Environments = []control.EnvironmentStatus{devDone(rel3), {
		Name: "production", State: run.Waiting, Release: rel3, PreviousRelease: rel1, Strategy: "canary",
		WaitingFor: "the rollout of release " + rel2.Short() + " (run 12) to end; one rollout at a time is live in an environment", Queue: &control.QueueStatus{Position: 1, Behind: "12", Before: []string{}},
	}}
	f.runs = append(f.runs, s)
	f.explain["17"] = control.Explanation{
		Run: "17", State: string(run.Waiting), Environment: "production", Now: "the release waits for its turn in production: place 1 in the queue",
		Why:  s.Environments[1].WaitingFor + ". Run 12 is baking at 25 % for 6m42s of 15m0s, extended once",
		Next: "its gates are asked again, and its rollout starts", When: "when run 12 has ended; run 12 takes its next step in 8m18s",
		Choices: choicesOf("sluice abort 17   ends this run; nothing that users see has changed", "sluice explain 12   says what the one before it waits for"),
	}
}
