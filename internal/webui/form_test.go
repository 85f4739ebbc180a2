package webui

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/control"
)

func commandForm(kind string, more ...string) url.Values {
	v := url.Values{"command": {kind}, "environment": {"production"}, "revision": {"88"}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}

func TestCommands(t *testing.T) {
	f := newFake()
	post(t, f, "/runs/12/commands", commandForm("pause")).leadsTo("/runs/12?done=pause")
	post(t, f, "/runs/12/commands", commandForm("advance", "override", "true", "full", "true", "reason", "known <b>bug</b>")).leadsTo("/runs/12?done=advance")
	want := []string{
		`pause 12 production full=false override=false revision=88 reason="" by=local:unknown`,
		`advance 12 production full=true override=true revision=88 reason="known <b>bug</b>" by=local:unknown`,
	}
	if !slices.Equal(f.told, want) {
		t.Errorf("control was told %q", f.told)
	}
	get(t, f, "/runs/12?done=pause").has("#notice.good", "Paused.")
	get(t, f, "/runs/12?done=<script>").hasNot("#notice")

	post(t, f, "/runs/12/commands", commandForm("supersede")).status(http.StatusUnprocessableEntity)
	post(t, f, "/runs/12/commands", commandForm("pause", "revision", "x")).status(http.StatusUnprocessableEntity)
	post(t, f, "/runs/12/commands", commandForm("abort", "reason", strings.Repeat("x", 5000))).status(http.StatusUnprocessableEntity)
	post(t, f, "/runs/12/commands", commandForm("abort", "reason", strings.Repeat("x", 70000))).status(http.StatusRequestEntityTooLarge)
	if len(f.told) != 2 {
		t.Errorf("control was told %q", f.told[2:])
	}
}

// A pause and an abort are meant whatever the rollout does just now; the others
// are about what the person saw.
func TestCommandOnSomethingElse(t *testing.T) {
	f := newFake()
	f.stale = true
	d := get(t, f, "/runs/12")
	d.hasNot("#act-pause input[name=revision]")
	d = post(t, f, "/runs/12/commands", commandForm("advance"))
	d.status(http.StatusConflict)
	d.has("#notice.bad", "It moved while you looked")
	d.has("#headline", "Baking") // and how it stands now
	if len(f.told) != 0 {
		t.Errorf("control was told %q", f.told)
	}
	post(t, f, "/runs/12/commands", url.Values{"command": {"abort"}, "environment": {"production"}}).leadsTo("/runs/12?done=abort")
}

func TestCommandRefused(t *testing.T) {
	f := newFake()
	f.refuse["resume"] = fmt.Errorf("%w: it is not paused but held: `sluice explain 12` says why", control.ErrRefused)
	d := post(t, f, "/runs/12/commands", commandForm("resume"))
	d.status(http.StatusConflict)
	d.has("#notice.bad code", "sluice explain 12")
	// The page that shows it renews itself from the run's own address.
	if got := attr(d.all("#live")[0], "hx-get"); got != "/runs/12" {
		t.Errorf("it renews itself from %q", got)
	}
}

func decision(what, comment string) url.Values {
	_, digest := packetBody("18")
	return url.Values{"environment": {"production"}, "packet": {string(digest)}, "decision": {what}, "comment": {comment}}
}

func TestDecisions(t *testing.T) {
	f := newFake()
	_, digest := packetBody("18")
	post(t, f, "/runs/18/decisions", decision("approved", "")).leadsTo("/runs/18?done=approved")
	post(t, f, "/runs/18/decisions", decision("rejected", "no")).leadsTo("/runs/18?done=rejected")
	post(t, f, "/runs/18/decisions", decision("rejected", "")).status(http.StatusUnprocessableEntity)
	post(t, f, "/runs/18/decisions", decision("perhaps", "")).status(http.StatusUnprocessableEntity)
	post(t, f, "/runs/18/decisions", url.Values{"decision": {"approved"}, "packet": {"sha256:12"}}).status(http.StatusUnprocessableEntity)
	want := []string{
		fmt.Sprintf(`decide 18 production %s approve=true comment="" by=local:unknown`, digest.Short()),
		fmt.Sprintf(`decide 18 production %s approve=false comment="no" by=local:unknown`, digest.Short()),
	}
	if !slices.Equal(f.told, want) {
		t.Errorf("control was told %q", f.told)
	}
	f.refuse["decide"] = &control.Moved{Packet: rel1, Changes: []control.Change{{Path: "release", Was: "a", Now: "b"}}}
	d := post(t, f, "/runs/18/decisions", decision("approved", ""))
	d.status(http.StatusConflict)
	d.has("#notice.bad", "The packet changed since you saw it")
	d.has("#notice .changes tr", "release a b")
	d.has("form.decide button", "Approve") // of the one that waits now
}
