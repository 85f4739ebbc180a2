package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// What a check left is read by the entry that names it. It was written by what was
// checked, so that no browser runs it whatever it says that it is.
func TestWhatAChecksEntryNames(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		page := []byte("<script>alert(1)</script>")
		st := evidence.TestResult{
			Result: evidence.TestsFailed, FailedTests: []string{"smoke"}, At: evidence.StampOf(time.Unix(1767322800, 0)),
			Configuration: []evidence.Resource{{Name: "check/smoke"}},
		}
		for name, media := range map[string]string{"output/smoke": "text/html", "screenshot/smoke": "image/png"} {
			d, _, err := e.blobs.Put(t.Context(), bytes.NewReader(append(page, name...)))
			if err != nil {
				t.Fatal(err)
			}
			st.Byproducts = append(st.Byproducts, evidence.Resource{Name: name, Digest: map[string]string{"sha256": d.Hex()}, MediaType: media})
		}
		id := release.DigestOf([]byte("a manifest"))
		s, err := e.keys.State(st, evidence.ReleaseSubject("default", "shop", id))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.store.Update(t.Context(), func(tx *store.Tx) error {
			return tx.AppendLeaf(&store.Leaf{Project: "default", ID: "check/1", Envelope: s.Envelope, PredicateType: st.PredicateType(), Subject: id, At: tx.Now()})
		}); err != nil {
			t.Fatal(err)
		}
		if err := e.control.Integrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		const at = Prefix + "/projects/default/evidence/entries/"
		var one Statement
		a := e.call("GET", at+"0", nil)
		if err := json.Unmarshal(a.body, &one); err != nil || one.Index == nil || *one.Index != 0 || len(one.Outputs) != 2 {
			t.Fatalf("%d %s %v", a.status, a.body, err)
		}
		for name, want := range map[string]string{"output/smoke": "text/plain; charset=utf-8", "screenshot/smoke": "image/png"} {
			a := e.call("GET", at+"0/output?name="+name, nil)
			if a.status != http.StatusOK || !bytes.HasPrefix(a.body, page) || a.header.Get("Content-Type") != want ||
				a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(a.header.Get("Content-Security-Policy"), "sandbox") {
				t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
			}
		}
		for _, bad := range []struct {
			at     string
			status int
		}{{"1", 404}, {"1/output?name=output/smoke", 404}, {"0/output?name=nothing", 404}, {"0/output", 422}, {"x", 422}, {"-1", 422}} {
			if a := e.call("GET", at+bad.at, nil); a.status != bad.status || a.problem(t).Detail == "" {
				t.Errorf("%s: %d %s", bad.at, a.status, a.body)
			}
		}
		bundle := func(q string) string {
			return string(e.call("GET", Prefix+"/projects/default/evidence/bundle"+q, nil).body)
		}
		if !strings.Contains(bundle(""), `"outputs":[`) || strings.Contains(bundle("?outputs=none"), `"outputs":[`) {
			t.Errorf("%.200s\n%.200s", bundle(""), bundle("?outputs=none"))
		}
	})
}

// A long log is read a page at a time, from the newest back.
func TestEvidenceByThePage(t *testing.T) {
	edges(t, func(t testing.TB, e *edge) {
		id := release.DigestOf([]byte("a manifest"))
		if err := e.store.Update(t.Context(), func(tx *store.Tx) error {
			for _, name := range []string{"one", "two", "three"} {
				s, err := e.keys.State(evidence.TestResult{Result: evidence.TestsPassed, At: evidence.StampOf(time.Unix(1767322800, 0)), Configuration: []evidence.Resource{{Name: "unit"}}}, evidence.ReleaseSubject("default", "shop", id))
				if err != nil {
					return err
				}
				if err := tx.AppendLeaf(&store.Leaf{Project: "default", ID: name, Envelope: s.Envelope, PredicateType: evidence.TestResult{}.PredicateType(), Subject: id, At: tx.Now()}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for q, want := range map[string]string{"": "1 one, 2 two, 3 three", "?limit=2": "2 two, 3 three", "?limit=2&before=2": "1 one", "?before=1": ""} {
			var list []Statement
			a := e.call("GET", Prefix+"/projects/default/evidence"+q, nil)
			if err := json.Unmarshal(a.body, &list); err != nil {
				t.Fatalf("%d %s %v", a.status, a.body, err)
			}
			var got []string
			for _, s := range list {
				got = append(got, fmt.Sprintf("%d %s", s.Number, s.ID))
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s: %v", q, got)
			}
		}
		for _, q := range []string{"?limit=-1", "?limit=10001", "?before=x"} {
			if a := e.call("GET", Prefix+"/projects/default/evidence"+q, nil); a.status != http.StatusUnprocessableEntity || a.problem(t).Detail == "" {
				t.Errorf("%s: %d %s", q, a.status, a.body)
			}
		}
	})
}
