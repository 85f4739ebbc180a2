package agent

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/release"
)

// Bounds of a desired state.
const (
	maxInstances = 256
	maxRevisions = 16
	maxAlso      = 4
)

// known are the features that a desired state may require of this build.
var known = []string{wire.FeatureShares, wire.FeaturePreview, wire.FeatureAlso, wire.FeatureWorker, wire.FeatureSynthetic, wire.FeatureShadow}

// check refuses what this agent does not understand or could not do.
func check(d *wire.Desired) error {
	if d.Protocol != wire.Protocol {
		return fmt.Errorf("protocol %d is not spoken here (this agent speaks %d): upgrade the older side", d.Protocol, wire.Protocol)
	}
	for _, f := range d.Requires {
		if !slices.Contains(known, f) {
			return fmt.Errorf("feature %.80q is required, and this agent does not know it: upgrade the agent", f)
		}
	}
	if d.Generation <= 0 {
		return fmt.Errorf("generation %d is not positive", d.Generation)
	}
	if d.Removed && len(d.Revisions) > 0 {
		return errors.New("it is removed and has revisions")
	}
	if !d.Removed {
		if err := checkAddresses(d); err != nil {
			return err
		}
	}
	if d.Synthetic != nil {
		if err := generator(*d).Check(); err != nil {
			return err
		}
	}
	if s := d.Sticky.Cookie; !token(s) {
		return fmt.Errorf("sticky cookie %.80q is not a cookie's name", s)
	}
	if s := d.Sticky.Header; !token(s) {
		return fmt.Errorf("sticky header %.80q is not a header's name", s)
	}
	if len(d.Revisions) > maxRevisions {
		return fmt.Errorf("%d revisions are more than %d", len(d.Revisions), maxRevisions)
	}
	sum := 0
	for i, r := range d.Revisions {
		if err := checkRevision(r); err != nil {
			return fmt.Errorf("revision %.20s: %w", r.Release.Short(), err)
		}
		if slices.ContainsFunc(d.Revisions[:i], func(o wire.Revision) bool { return o.Release == r.Release }) {
			return fmt.Errorf("revision %.20s stands twice", r.Release.Short())
		}
		sum += r.Weight
	}
	if sum != 0 && sum != wire.FullWeight {
		return fmt.Errorf("weights sum to %d, not to 0 or %d", sum, wire.FullWeight)
	}
	return nil
}

// checkAddresses wants an address of everything but a worker, which has none.
func checkAddresses(d *wire.Desired) error {
	if worker(d) {
		if d.Listen != "" || d.Preview != "" || len(d.Also) > 0 {
			return errors.New("it is a worker and has an address to listen on")
		}
		return nil
	}
	if _, err := listenAddress(d.Listen, "127.0.0.1"); err != nil {
		return err
	}
	if len(d.Also) > maxAlso {
		return fmt.Errorf("%d addresses besides its own are more than %d", len(d.Also), maxAlso)
	}
	for _, also := range d.Also {
		if _, err := listenAddress(also, "127.0.0.1"); err != nil {
			return fmt.Errorf("also: %w", err)
		}
	}
	if d.Preview == "" {
		return nil
	}
	if _, err := listenAddress(d.Preview, "127.0.0.1"); err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	if d.Preview == d.Listen && !strings.HasSuffix(d.Listen, ":0") {
		return fmt.Errorf("preview and service both listen on %.100q", d.Listen)
	}
	return nil
}

// worker says whether nothing is routed to the service.
func worker(d *wire.Desired) bool { return slices.Contains(d.Requires, wire.FeatureWorker) }

// onHost is what d says about one host: it has no shares.
func onHost(d wire.Desired, host string) wire.Desired {
	d.Revisions = slices.Clone(d.Revisions)
	for i := range d.Revisions {
		r := &d.Revisions[i]
		if s, named := r.Shares[host]; named {
			r.Instances, r.Weight = s.Instances, s.Weight
		}
		r.Shares = nil
	}
	return d
}

func checkRevision(r wire.Revision) error {
	if _, err := release.ParseDigest(string(r.Release)); err != nil {
		return err
	}
	if r.Weight < 0 || r.Weight > wire.FullWeight {
		return fmt.Errorf("weight %d is not within 0 and %d", r.Weight, wire.FullWeight)
	}
	if r.Shadow < 0 || r.Shadow > wire.FullWeight {
		return fmt.Errorf("shadow %d is not within 0 and %d", r.Shadow, wire.FullWeight)
	}
	if r.Instances < 0 || r.Instances > maxInstances {
		return fmt.Errorf("%d instances are not within 0 and %d", r.Instances, maxInstances)
	}
	if r.Instances > 0 && strings.TrimSpace(r.Run) == "" {
		return errors.New("it has no command to run")
	}
	for _, p := range []string{r.Health.HTTP, r.Metrics} {
		if p != "" && !strings.HasPrefix(p, "/") {
			return fmt.Errorf("path %.80q does not begin with /", p)
		}
	}
	for _, d := range []time.Duration{r.Health.Timeout, r.Health.Interval, r.Health.StartIn, r.Health.DrainIn} {
		if d < 0 || d > 24*time.Hour {
			return fmt.Errorf("duration %s is not within 0 and 24h", d)
		}
	}
	for k, v := range r.Env {
		if err := checkEnv(k, v); err != nil {
			return err
		}
	}
	for k := range r.Secrets {
		if err := checkEnv(k, ""); err != nil {
			return err
		}
	}
	return nil
}

func checkEnv(k, v string) error {
	if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
		return fmt.Errorf("environment variable %.80q can't be set", k)
	}
	return nil
}

// token says whether s is empty or could name a header or a cookie.
func token(s string) bool {
	if len(s) > 256 {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return true
}

// listenAddress completes an address that names only a port.
func listenAddress(listen, address string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("listen %.100q is not host:port or :port", listen)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("listen %.100q has no port number", listen)
	}
	if host == "" {
		host = address
	}
	return net.JoinHostPort(host, port), nil
}
