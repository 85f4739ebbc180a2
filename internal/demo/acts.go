package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/control"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/run"
	"github.com/sluicehq/sluice/internal/verdict"
)

func (s *story) tell(ctx context.Context) (err error) {
	s.api = newAPI(s.server.URL, s.server.Token)
	defer s.api.close()
	defer s.settle()
	defer func() {
		if s.load != nil {
			s.load.end()
		}
	}()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.first(ctx); err != nil {
		return err
	}
	s.act("Customers come")
	s.load = startLoad(ctx, s.address())
	s.say("%d requests a second, prices and orders, from now on without a break. Each one is counted here by its answer, and by the proxy.", loadRate)
	if err := s.better(ctx); err != nil {
		return err
	}
	if err := s.bad(ctx); err != nil {
		return err
	}
	if err := s.count(ctx); err != nil {
		return err
	}
	if err := s.prove(ctx); err != nil {
		return err
	}
	return s.close(ctx)
}

// push starts the run of a version, unless it was started before.
func (s *story) push(ctx context.Context, v version) (id string, err error) {
	if id = s.runs[v.Name]; id != "" {
		return id, nil
	}
	if id, err = s.api.start(ctx, s.repository, v.Commit); err == nil {
		s.runs[v.Name] = id
	}
	return id, err
}

// ship runs one version to its end, and notes what came of it. Exposed, where
// set, is called when the version has its first traffic in production.
func (s *story) ship(ctx context.Context, v version, exposed func() error) (control.Status, error) {
	id, err := s.push(ctx, v)
	if err != nil {
		return control.Status{}, err
	}
	var failed error
	told := map[string]bool{}
	once := func(key string, f func()) {
		if !told[key] {
			told[key] = true
			f()
		}
	}
	show := func(st control.Status) {
		if st.Release == "" {
			if len(st.Steps) > 0 {
				s.move("building", building(st, time.Now()))
			}
			return
		}
		once("built", func() {
			s.say("%s", built(st))
			s.aside("release %s, artifact %s", st.Release.Short(), st.Digest.Short())
		})
		dev, production := environment(st, "dev"), environment(st, "production")
		if dev.State == run.Succeeded {
			once("dev", func() { s.say("dev: all at once; its smoke check was answered.") })
		}
		if production.Signals != nil && exposed != nil {
			once("exposed", func() { failed = exposed() })
		}
		if production.Signals != nil && s.load != nil && !ended(st.State) {
			s.move(fmt.Sprintf("%v %v", production.Weight, production.Verdict), traffic(v.Name, s.stable, production))
		}
	}
	st, err := s.api.follow(ctx, id, show)
	if err != nil {
		return st, fmt.Errorf("couldn't follow the release of %s: %w", v.Name, err)
	}
	if failed != nil {
		return st, failed
	}
	if !ended(st.State) {
		s.say("%s waits for a person: %s. Nobody is there, so it is taken back.", v.Name, strings.TrimSuffix(held(st), "."))
		if err := s.api.abort(ctx, id, "the demo has no person to ask"); err != nil {
			return st, err
		}
		if st, err = s.api.follow(ctx, id, show); err != nil {
			return st, fmt.Errorf("couldn't follow the rollback of %s: %w", v.Name, err)
		}
	}
	s.note(v, st)
	if st.State == run.Succeeded {
		s.stable = v.Name
	}
	return st, nil
}

// note takes a release into the document.
func (s *story) note(v version, st control.Status) {
	production := environment(st, "production")
	r := Release{Version: v.Name, Release: st.Release, Digest: st.Digest, State: st.State, Verdict: production.Verdict}
	if production.Verdict == verdict.Fail {
		r.DetectSeconds, r.RollbackMillis = production.DetectSeconds, production.RollbackMillis
		if g := production.Signals; g != nil {
			r.RequestsToDetect = &g.RequestsToDetect
		}
	}
	s.doc.Releases = append(s.doc.Releases, r)
}

func (s *story) first(ctx context.Context) error {
	s.act("v1, the first release")
	s.aside("Builds from nothing: the Go standard library is compiled once, too.")
	st, err := s.ship(ctx, s.versions[good], nil)
	if err != nil {
		return err
	}
	if st.State != run.Succeeded {
		return fmt.Errorf("the first release is %s: %s", st.State, st.Reason)
	}
	s.say("production: the same bytes, promoted by digest. There is nothing yet to compare with or to go back to, so v1 takes all traffic at once.")
	return nil
}

func (s *story) better(ctx context.Context) error {
	s.act("v2, a good change: " + s.versions[better].Subject)
	st, err := s.ship(ctx, s.versions[better], func() error {
		s.say("Its first customers. Meanwhile v3 is pushed, too: it builds, passes dev and waits, as one rollout at a time is live in an environment.")
		_, err := s.push(ctx, s.versions[bad])
		return err
	})
	if err != nil {
		return err
	}
	s.outcome(st)
	return nil
}

func (s *story) bad(ctx context.Context) error {
	s.act("v3, a bad change: " + s.versions[bad].Subject)
	if s.BadRate > 0 {
		s.say("Its tests pass, and so does dev. But %s of 100 customers get an error.", strconv.FormatFloat(s.BadRate, 'f', -1, 64))
	} else {
		s.say("This time without its flaw: --bad-rate is 0, so nothing is to be found.")
	}
	st, err := s.ship(ctx, s.versions[bad], nil)
	if err != nil {
		return err
	}
	s.outcome(st)
	return nil
}

// outcome tells how a canary ended.
func (s *story) outcome(st control.Status) {
	p := environment(st, "production")
	said := false
	for _, m := range p.Metrics {
		if m.Sentence == "" {
			continue
		}
		said = true
		colour := ""
		switch m.Verdict {
		case verdict.Pass:
			colour = green
		case verdict.Fail:
			colour = red
		}
		s.verdict(colour, string(m.Verdict), m.Sentence)
	}
	if !said && st.Reason != "" {
		s.say("%s", st.Reason)
	}
	r := s.doc.Releases[len(s.doc.Releases)-1]
	switch {
	case r.State == run.Succeeded:
		s.say("%s has all traffic. What it replaced stays warm, for a fast way back.", r.Version)
	case r.RequestsToDetect != nil && r.RollbackMillis != nil && r.DetectSeconds != nil:
		s.say("Found after %s canary requests, %.1f s after the first. %d ms after the verdict no request went to %s any more; nobody was asked, nobody was needed.",
			number(*r.RequestsToDetect), *r.DetectSeconds, *r.RollbackMillis, r.Version)
	default:
		s.say("%s is %s: %s", r.Version, r.State, st.Reason)
	}
}

// agree bounds how long the proxy's last report is waited for.
const agree = 30 * time.Second

// count ends the load and compares the client's count with the proxy's.
func (s *story) count(ctx context.Context) error {
	s.act("What customers saw")
	c := s.load.end()
	s.load = nil
	d := &s.doc
	d.ClientRequests, d.DroppedRequests = c.Requests(), c.Dropped
	for i := range d.Releases {
		a := c.Versions[d.Releases[i].Version]
		d.Releases[i].GoodResponses, d.Releases[i].BadResponses = a.Good, a.Bad
	}
	for deadline := time.Now().Add(agree); ; {
		n, err := s.api.proxied(ctx, "production")
		if err != nil {
			return fmt.Errorf("couldn't read what the proxy counted: %w", err)
		}
		d.ProxyRequests = n
		if n == d.ClientRequests || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusEvery):
		}
	}
	bad := int64(0)
	for _, r := range d.Releases {
		bad += r.BadResponses
	}
	s.say("They sent %s requests, and the proxy counted %s. Dropped: %s. Answered with an error: %s (%.2f %%).",
		number(d.ClientRequests), number(d.ProxyRequests), number(d.DroppedRequests), number(bad), 100*float64(bad)/float64(max(1, d.ClientRequests)))
	return nil
}

// prove exports the evidence and verifies it from the file alone.
func (s *story) prove(ctx context.Context) error {
	s.act("Evidence")
	path := filepath.Join(s.folder, "evidence.json")
	if err := s.api.export(ctx, path); err != nil {
		return fmt.Errorf("couldn't export the evidence: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("couldn't read the evidence: %w", err)
	}
	defer f.Close()
	r, err := evidence.Verify(f, evidence.VerifyOptions{Project: project, Whole: true})
	if err != nil {
		return err
	}
	s.doc.Evidence = Evidence{Statements: r.Statements, Verified: r.OK && r.Verified == r.Statements && r.Statements > 0}
	if s.doc.Evidence.Verified {
		s.verdict(green, "verified", fmt.Sprintf("%s signed statements, offline, from the exported file alone; it proves to be %s. Among them: builds, tests, gates, promotions, every step of every rollout, verdicts with their numbers, the rollback.", number(int64(r.Statements)), r.Completeness))
		return nil
	}
	s.verdict(red, "not verified", fmt.Sprintf("%d of %d statements verify.", r.Verified, r.Statements))
	for _, x := range r.Findings[:min(5, len(r.Findings))] {
		s.say("%s: %s", x.Kind, x.Message)
	}
	return nil
}

// close sums up, and stays.
func (s *story) close(ctx context.Context) error {
	s.table(s.doc)
	missing := s.doc.Missing()
	s.print("")
	if len(missing) == 0 {
		s.print(indent + s.paint(green, "All of it happened") + fmt.Sprintf(", in %.0f s.", time.Since(s.began).Seconds()))
	}
	for _, m := range missing {
		s.verdict(red, "Not as it should be", m+".")
	}
	if s.Told != nil {
		if err := s.Told(s.doc); err != nil {
			return err
		}
	}
	if !s.Once {
		s.load = startLoad(ctx, s.address())
		s.print("")
		s.print(indent + "The customers go on, and so does the web page:")
		s.print(indent + s.paint(bold, s.login()))
		s.print(indent + "Ship v4, which is slow, and watch it:")
		s.print(indent + s.paint(bold, fmt.Sprintf("%s run --data %s \\", command(), s.folder)))
		s.print(indent + s.paint(bold, fmt.Sprintf("  --repo %s --ref %s", s.repository, SlowBranch)))
		s.print(indent + "Ctrl-C ends all of it.")
		<-ctx.Done()
		return nil
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", ErrIncomplete, strings.Join(missing, "; "))
	}
	return nil
}
