package pipeline

import (
	"fmt"
	"math"
	"time"
)

// Check is a question that must be answered as stated: exactly one of HTTP,
// Command and Browser is set.
type Check struct {
	Name    string        `json:"name"`
	HTTP    *HTTPCheck    `json:"http,omitempty"`
	Command *CommandCheck `json:"command,omitempty"`
	Browser *BrowserCheck `json:"browser,omitempty"`
}

// HTTPCheck is one HTTP request.
type HTTPCheck struct {
	Path     string        `json:"path"`
	Status   int           `json:"status"`             // default 200
	Contains string        `json:"contains,omitempty"` // in the body's first MiB
	Timeout  time.Duration `json:"timeout"`            // of one try, default 5 s
	Retries  int           `json:"retries"`            // default 3
}

// CommandCheck is a command line inside the unpacked artifact of the release.
// Exit code 0 is a pass, whatever it prints.
type CommandCheck struct {
	Run     string        `json:"run"`
	Timeout time.Duration `json:"timeout"` // of one try, default 1 min
	Retries int           `json:"retries"` // default 0
}

// BrowserCheck is a page in a headless Chromium.
type BrowserCheck struct {
	Path           string        `json:"path"`
	Selector       string        `json:"selector,omitempty"` // CSS, of an element that must be visible
	Text           string        `json:"text,omitempty"`     // that the page must show
	ConsoleErrors  bool          `json:"failOnConsoleErrors,omitempty"`
	FailedRequests bool          `json:"failOnFailedRequests,omitempty"`
	Timeout        time.Duration `json:"timeout"` // of one try, default 30 s
	Retries        int           `json:"retries"` // default 1
}

// Kind is the key of what the check is: http, command or browser.
func (c Check) Kind() string {
	switch {
	case c.Command != nil:
		return "command"
	case c.Browser != nil:
		return "browser"
	}
	return "http"
}

// Retries is how many further tries a check has.
func (c Check) Retries() int {
	switch {
	case c.Command != nil:
		return c.Command.Retries
	case c.Browser != nil:
		return c.Browser.Retries
	case c.HTTP != nil:
		return c.HTTP.Retries
	}
	return 0
}

// Timeout is how long one try may take.
func (c Check) Timeout() time.Duration {
	switch {
	case c.Command != nil:
		return c.Command.Timeout
	case c.Browser != nil:
		return c.Browser.Timeout
	case c.HTTP != nil:
		return c.HTTP.Timeout
	}
	return 0
}

// Hooks are the checks around the moves of a rollout's traffic. The candidate
// must pass each before the rollout goes on.
type Hooks struct {
	BeforeTraffic []Check `json:"beforeTraffic,omitempty"` // it is ready, and no user has reached it
	AfterStep     []Check `json:"afterStep,omitempty"`     // after each shift and its bake
	AfterTraffic  []Check `json:"afterTraffic,omitempty"`  // at 100 %, before the rollout is done
}

// Synthetic is traffic that Sluice makes itself while a candidate bakes.
type Synthetic struct {
	Rate  float64  `json:"rate"` // requests per second on each host, over both versions
	Paths []string `json:"paths"`
	Count bool     `json:"count,omitempty"` // the judge counts them like users' requests
}

// Checks returns all checks of an environment: those of its hooks in their
// order, then those of verify. Their names are unique.
func (e Environment) Checks() []Check {
	var out []Check
	for _, list := range [][]Check{e.Hooks.BeforeTraffic, e.Hooks.AfterStep, e.Verify, e.Hooks.AfterTraffic} {
		out = append(out, list...)
	}
	return out
}

var checkModel = described(besides(object("check", Check{},
	key("name", "Name of the check.", name(), func(c *Check, v string) { c.Name = v }, required),
	key("http", "A request that must be answered as stated.", httpCheckModel, func(c *Check, v HTTPCheck) { c.HTTP = &v }),
	key("command", "A command line, or a mapping. It runs inside the unpacked artifact of the release, isolated as build steps are, with network, and is told SLUICE_URL, SLUICE_RELEASE, SLUICE_SERVICE and SLUICE_ENVIRONMENT. Exit code 0 is a pass. It may run again.",
		commandCheckModel, func(c *Check, v CommandCheck) { c.Command = &v }),
	key("browser", "A page that a headless Chromium on the server's machine opens. Its screenshot is kept.", browserCheckModel, func(c *Check, v BrowserCheck) { c.Browser = &v }),
	notYet[Check]("lambda", "verify by a Lambda function", "verify by a request (http) or a command"),
	notYet[Check]("ssm", "verify by an SSM automation", "verify by a request (http) or a command"),
), oneKindOfCheck), func(s *shape) { s.oneOf = checkKinds })

var checkKinds = []string{"http", "command", "browser"}

func oneKindOfCheck(p *parser, at string, _ Check) bool {
	n := 0
	for _, k := range checkKinds {
		if p.positions.Has(at + "." + k) {
			n++
		}
	}
	switch {
	case n > 1:
		p.at(p.keyAt(at), at, Error, "one-of", label(at)+" is of several kinds", "keep one of http, command and browser; give each its own check")
	case n == 0 && !p.isBad(at):
		p.at(p.keyAt(at), at, Error, "missing-key", label(at)+" checks nothing", "add http: {path: /}, command: ./smoke.sh or browser: {path: /}")
	}
	return n == 1
}

var httpCheckModel = object("httpCheck", HTTPCheck{Status: 200, Timeout: 5 * time.Second, Retries: 3},
	key("path", "Path and query of the request.", text(notBlank, urlPath), func(c *HTTPCheck, v string) { c.Path = v }, required),
	key("status", "Status that must be answered.", integer(100, 599), func(c *HTTPCheck, v int) { c.Status = v }, byDefault("200")),
	key("contains", "Text that the first MiB of the body must hold.", text(notBlank, atMost(4096)), func(c *HTTPCheck, v string) { c.Contains = v }),
	key("timeout", "How long one try may take.", duration(time.Millisecond), func(c *HTTPCheck, v time.Duration) { c.Timeout = v }, byDefault("5s")),
	key("retries", "Further tries after a wrong answer.", integer(0, 100), func(c *HTTPCheck, v int) { c.Retries = v }, byDefault("3")),
)

var defaultCommandCheck = CommandCheck{Timeout: time.Minute}

var commandCheckModel = either(
	as(text(notBlank, atMost(64<<10)), func(s string) CommandCheck {
		c := defaultCommandCheck
		c.Run = s
		return c
	}),
	object("commandCheck", defaultCommandCheck,
		key("run", "Command line for sh, inside the unpacked artifact.", text(notBlank, atMost(64<<10)), func(c *CommandCheck, v string) { c.Run = v }, required),
		key("timeout", "How long one try may take; then it is killed with everything that it started.", duration(time.Millisecond), func(c *CommandCheck, v time.Duration) { c.Timeout = v }, byDefault("1m")),
		key("retries", "Further tries after another exit code than 0.", integer(0, 100), func(c *CommandCheck, v int) { c.Retries = v }, byDefault("0")),
	),
)

var browserCheckModel = object("browserCheck", BrowserCheck{Timeout: 30 * time.Second, Retries: 1},
	key("path", "Path and query of the page.", text(notBlank, urlPath), func(c *BrowserCheck, v string) { c.Path = v }, required),
	key("selector", "CSS selector of an element that must be visible.", text(notBlank, atMost(1024)), func(c *BrowserCheck, v string) { c.Selector = v }),
	key("text", "Text that the page must show.", text(notBlank, atMost(4096)), func(c *BrowserCheck, v string) { c.Text = v }),
	key("failOnConsoleErrors", "Whether an error on the console, or an exception that nobody caught, fails the check.", boolean(), func(c *BrowserCheck, v bool) { c.ConsoleErrors = v }, byDefault("false")),
	key("failOnFailedRequests", "Whether a request of the page that gets no answer, or a status of 400 and more, fails the check.", boolean(), func(c *BrowserCheck, v bool) { c.FailedRequests = v }, byDefault("false")),
	key("timeout", "How long one try may take.", duration(time.Millisecond), func(c *BrowserCheck, v time.Duration) { c.Timeout = v }, byDefault("30s")),
	key("retries", "Further tries.", integer(0, 100), func(c *BrowserCheck, v int) { c.Retries = v }, byDefault("1")),
)

var hooksModel = object("hooks", Hooks{},
	key("beforeTraffic", "Once the new release is ready and before any user reaches it: asked at its preview address, or at the instances themselves.", list(checkModel, 1), func(h *Hooks, v []Check) { h.BeforeTraffic = v }),
	key("afterStep", "After each step of the plan that moved traffic, and its bake: asked where users are.", list(checkModel, 1), func(h *Hooks, v []Check) { h.AfterStep = v }),
	key("afterTraffic", "When it has all traffic, after verify and before the rollout is done: asked where users are.", list(checkModel, 1), func(h *Hooks, v []Check) { h.AfterTraffic = v }),
)

// Bounds of made traffic: it fills up a thin service, and is no load test. What is
// counted with users' requests must not drown theirs. An agent refuses more too.
const (
	maxSynthetic      = 1000 // requests per second on each host
	maxCounted        = 50   // of those that the judge counts
	maxSyntheticPaths = 100
)

var syntheticModel = besides(object("synthetic", Synthetic{Paths: []string{"/"}},
	key("rate", "Requests per second on each host, spread over the versions as users are. At most 50 where the judge counts them.", number(shape{min: 0, max: maxSynthetic, above: true}), func(s *Synthetic, v float64) { s.Rate = math.Round(v*1000) / 1000 }, required),
	key("paths", "Paths that are asked in turn, by GET; at most 100.", list(text(notBlank, atMost(2048), urlPath), 1), func(s *Synthetic, v []string) { s.Paths = v }, byDefault("[/]")),
	key("count", "Whether the judge counts them with users' requests. Without it they only keep the service busy, apart from all users' metrics. No service may say so beside a platform's standard.", boolean(), func(s *Synthetic, v bool) { s.Count = v }, byDefault("false")),
), boundedSynthetic)

func boundedSynthetic(p *parser, at string, s Synthetic) bool {
	ok := true
	if n := len(s.Paths); n > maxSyntheticPaths && !p.isBad(at+".paths") {
		p.at(p.valueAt(at+".paths"), at+".paths", Error, "too-large", fmt.Sprintf("synthetic.paths has %d items; at most %d are asked", n, maxSyntheticPaths), "keep the paths that matter")
		ok = false
	}
	if s.Count && s.Rate > maxCounted && !p.isBad(at+".rate") {
		p.at(p.valueAt(at+".rate"), at+".rate", Error, "out-of-range",
			fmt.Sprintf("synthetic.rate is %g with count: true; requests that are counted with users' must be at most %d per second on each host, or they drown theirs", s.Rate, maxCounted),
			fmt.Sprintf("write rate: %d, or remove count", maxCounted))
		ok = false
	}
	return ok
}
