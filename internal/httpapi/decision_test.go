package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// A decision holds for the packet that its maker saw. What waits now is another
// one: the answer says which, and how it differs; of what never was a packet it
// says that.
func TestADecisionOnAnotherPacketIsAnsweredWithTheDifference(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		bodies := map[string]string{
			"saw": `{"environment":"production","plan":{"strategy":"canary"},"previous":"sha256:aaaa","release":"sha256:cccc"}`,
			"now": `{"environment":"production","plan":{"strategy":"canary"},"previous":"sha256:bbbb","release":"sha256:cccc"}`,
		}
		saw, now := release.DigestOf([]byte(bodies["saw"])), release.DigestOf([]byte(bodies["now"]))
		row := store.Run{
			Project: "default", Kind: "run", Service: "shop", Phase: "waiting", Live: true,
			Definition: []byte(`{"environments":[{"name":"production","approval":{"quorum":1,"expires":3600000000000}}]}`),
			State:      []byte(`{"v":1,"phase":"promoting","outcome":"running","release":"` + string(release.DigestOf([]byte("release"))) + `","environments":[{"name":"production","state":"waiting","packet":"` + string(now) + `"}]}`),
		}
		err := e.store.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.InsertRun(&row); err != nil {
				return err
			}
			for _, name := range []string{"saw", "now"} {
				p := store.Packet{Project: "default", Run: row.ID, Environment: "production", Digest: release.DigestOf([]byte(bodies[name])), Body: []byte(bodies[name]), ExpiresAt: tx.Now()}
				if err := tx.PutPacket(&p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		path := project + "runs/" + row.ID + "/environments/production/decisions"
		for _, decision := range []string{"approve", "reject"} {
			a := e.call("POST", path, DecisionRequest{Packet: saw, Decision: decision})
			p := a.problem(t)
			if a.status != http.StatusConflict || p.Packet != now || len(p.Changes) != 1 || p.Changes[0].Path != "previous" || p.Changes[0].Was != "sha256:aaaa" || p.Changes[0].Now != "sha256:bbbb" {
				t.Errorf("%s of the packet before: %d %s", decision, a.status, a.body)
			}
			never := release.DigestOf([]byte("never"))
			a = e.call("POST", path, DecisionRequest{Packet: never, Decision: decision})
			p = a.problem(t)
			if a.status != http.StatusConflict || p.Packet != now || len(p.Changes) != 0 || !strings.Contains(p.Detail, string(never)+" never was a packet here") || strings.Contains(p.Detail, "changed since") {
				t.Errorf("%s of what never was a packet: %d %s", decision, a.status, a.body)
			}
		}
		// Nothing was decided: the packet that waits can be, and the status says at once
		// that it was.
		var before, after struct {
			Environments []struct{ State, Decision, WaitingFor string }
		}
		e.get("runs/"+row.ID, &before)
		if a := e.call("POST", path, DecisionRequest{Packet: now, Decision: "reject"}); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		e.get("runs/"+row.ID, &after)
		if b, a := before.Environments[0], after.Environments[0]; b.Decision != "" || !strings.HasPrefix(a.Decision, "rejected by local:") || !strings.HasPrefix(a.WaitingFor, a.Decision) {
			t.Errorf("before %+v, after %+v", b, a)
		}
	})
}
