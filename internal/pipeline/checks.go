package pipeline

import (
	"fmt"
	"strings"
)

// Moments of hooks, as the file names them.
const (
	BeforeTraffic = "beforeTraffic"
	AfterStep     = "afterStep"
	AfterTraffic  = "afterTraffic"
)

// What says in few words what a check asks.
func (c Check) What() string {
	switch {
	case c.HTTP != nil:
		return c.HTTP.Path
	case c.Browser != nil:
		return "browser " + c.Browser.Path
	case c.Command != nil:
		line, rest, _ := strings.Cut(strings.TrimSpace(c.Command.Run), "\n")
		if line = clip(line); rest != "" {
			line += " …"
		}
		return line
	}
	return ""
}

// Rule says what must hold for a check to pass.
func (c Check) Rule() string {
	switch {
	case c.HTTP != nil:
		s := fmt.Sprintf("GET %s answers %d", c.HTTP.Path, c.HTTP.Status)
		if c.HTTP.Contains != "" {
			s += fmt.Sprintf(" and holds %q", c.HTTP.Contains)
		}
		return s
	case c.Command != nil:
		return fmt.Sprintf("`%s` ends with exit code 0 within %s", c.What(), Short(c.Command.Timeout))
	case c.Browser != nil:
		s := "a browser opens " + c.Browser.Path
		if c.Browser.Selector != "" {
			s += " and shows " + c.Browser.Selector
		}
		if c.Browser.Text != "" {
			s += fmt.Sprintf(" and shows %q", c.Browser.Text)
		}
		if c.Browser.ConsoleErrors {
			s += ", without an error on the console"
		}
		if c.Browser.FailedRequests {
			s += ", without a failed request"
		}
		return s
	}
	return ""
}

// HookRisk names the risk that checks at a moment remove; verify's moment is "".
func HookRisk(moment string) string {
	switch moment {
	case BeforeTraffic:
		return "a user who is the first to find out that the release does not work"
	case AfterStep:
		return "a step that goes on although what users do no longer works"
	case AfterTraffic:
		return "a rollout that ends well although the service fails under all of its traffic"
	}
	return VerifyRisk
}

// WithCheckReady has lint warn of checks that the machine that lints could not
// run, such as one in a browser that is not there.
func WithCheckReady(ready func(Check) error) Option {
	return func(p *parser) { p.checkReady = ready }
}

// checkChecks reports names that an environment's checks have twice, over all of
// its lists: evidence and logs know a check by its name.
func (p *parser) checkChecks(at string, e Environment) {
	first := map[string]string{}
	for _, l := range []struct {
		path   string
		checks []Check
	}{{strategyAt(p, at, e.Rollout.Strategy) + ".preTraffic", e.Rollout.PreTraffic}, {at + ".hooks." + BeforeTraffic, e.Hooks.BeforeTraffic}, {at + ".hooks." + AfterStep, e.Hooks.AfterStep}, {at + ".verify", e.Verify}, {at + ".hooks." + AfterTraffic, e.Hooks.AfterTraffic}} {
		for i, c := range l.checks {
			where := fmt.Sprintf("%s[%d]", l.path, i)
			if p.positions.Has(where + ".name") {
				where += ".name"
			}
			if other, twice := first[c.Name]; twice && c.Name != "" {
				p.at(p.valueAt(where), where, Error, "duplicate-name", fmt.Sprintf("check %s is here a second time; the first is on line %d", clip(c.Name), p.valueAt(other).Line), "give each its own name, also over verify and hooks: evidence and logs know a check by it")
				continue
			}
			first[c.Name] = where
			if t := c.Timeout(); t > 0 && !p.isBad(fmt.Sprintf("%s[%d]", l.path, i)) && t > e.Rollout.Timeout && e.Rollout.Timeout > 0 {
				p.at(p.valueAt(where), where, Error, "check-too-long", fmt.Sprintf("check %s may take %s, longer than the rollout's timeout of %s", clip(c.Name), Short(t), Short(e.Rollout.Timeout)), "lower its timeout, or raise rollout.timeout")
			}
			if p.checkReady != nil && !p.isBad(fmt.Sprintf("%s[%d]", l.path, i)) {
				if err := p.checkReady(c); err != nil {
					p.at(p.valueAt(where), where, Warning, "check-not-ready", fmt.Sprintf("check %s can't run on this machine: %s", clip(c.Name), oneLine(err)), "install what it needs on the server's machine; a server without it refuses the run")
				}
			}
		}
	}
}
