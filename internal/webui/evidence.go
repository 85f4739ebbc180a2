package webui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
	"github.com/sluicehq/sluice/internal/store"
)

// shownLeaves bounds the statements on one page.
const shownLeaves = 100

// evidenceView is the page of signed statements.
type evidenceView struct {
	page
	Run, Env   string
	Release    release.ID
	Statements []statement // newest first
	Total      int64
	Older      string // address of the next page
}

// statement is one of them, as it is shown.
type statement struct {
	store.Leaf
	Name    string // of its type, in words
	Says    string
	JSON    string
	Outputs []link // what a check left
}

// link leads somewhere.
type link struct{ Text, URL string }

func (u *ui) evidence(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	v := &evidenceView{page: u.page(r, "Evidence"), Run: q.Get("run"), Env: q.Get("environment")}
	v.Here = "evidence"
	if !isNumber(v.Run) {
		return invalid("run= wants the number of a run")
	}
	l, err := u.feed(r, "")
	if err != nil {
		return err
	}
	if prefix := strings.TrimSpace(q.Get("release")); prefix != "" {
		rel, err := u.c.FindRelease(r.Context(), project, strings.TrimPrefix(prefix, "sha256:"))
		if err != nil {
			return err
		}
		v.Release = rel.ID
	}
	// One more than is shown tells whether there are older ones.
	f := store.LeafFilter{Subject: v.Release, Run: v.Run, Environment: v.Env, Limit: shownLeaves + 1}
	if text := q.Get("before"); text != "" {
		if f.Before, err = strconv.ParseInt(text, 10, 64); err != nil || f.Before < 1 {
			return invalid("before= wants the number of a statement, from 1")
		}
	} else {
		v.Live = l
	}
	leaves, err := u.c.Leaves(r.Context(), project, f)
	if err != nil {
		return err
	}
	if v.Total, err = u.c.CountLeaves(r.Context(), project, f); err != nil {
		return err
	}
	if len(leaves) > shownLeaves {
		leaves = leaves[1:]
		q.Set("before", strconv.FormatInt(leaves[0].Number, 10))
		v.Older = "/evidence?" + q.Encode()
	}
	for _, leaf := range slices.Backward(leaves) {
		v.Statements = append(v.Statements, newStatement(leaf))
	}
	u.show(w, r, http.StatusOK, v.page, evidenceContent(v))
	return nil
}

func newStatement(l store.Leaf) statement {
	s := statement{Leaf: l, Name: typeName(l.PredicateType)}
	st, err := evidence.Peek(l.Envelope)
	if err != nil {
		s.Says = "couldn't be read: " + err.Error()
		return s
	}
	var b bytes.Buffer
	if json.Indent(&b, st.Predicate, "", "  ") == nil {
		s.JSON = b.String()
	}
	s.Says = says(st.Predicate)
	for _, o := range st.Outputs() {
		if l.Index != nil { // until then no entry names it
			s.Outputs = append(s.Outputs, link{o.Name, fmt.Sprintf("/api/v1/projects/%s/evidence/entries/%d/output?name=%s", project, *l.Index, url.QueryEscape(o.Name))})
		}
	}
	return s
}

// typeName is a predicate's type in a word: gate decision, provenance.
func typeName(t string) string {
	if u, err := url.Parse(t); err == nil {
		dir, last := path.Split(strings.TrimSuffix(u.Path, "/"))
		if strings.HasPrefix(last, "v") && dir != "/" {
			last = path.Base(dir)
		}
		t = last
	}
	return strings.ReplaceAll(t, "-", " ")
}

// says picks what a reader wants first from a predicate.
func says(predicate []byte) string {
	var p struct {
		Gate, Outcome, Decision, Kind, Phase, Verdict, Cause, Change, Reason, Sentence, Result, From, To, Command string
		Weight                                                                                                    *int
		Asked                                                                                                     string    `json:"sluice_step"`
		BuildDefinition                                                                                           *struct{} `json:"buildDefinition"`
	}
	if err := json.Unmarshal(predicate, &p); err != nil {
		return ""
	}
	var parts []string
	for _, s := range []string{p.Gate, p.Asked, p.Outcome, p.Decision, p.Kind, p.Change, p.Result, p.Verdict, p.Cause, p.Command} {
		if s != "" && !slices.Contains(parts, s) {
			parts = append(parts, s)
		}
	}
	if p.Phase != "" {
		parts = append(parts, p.Phase)
	}
	if p.Weight != nil {
		parts = append(parts, weight(*p.Weight))
	}
	out := strings.Join(parts, " · ")
	for _, s := range []string{p.Reason, p.Sentence} {
		if s != "" {
			if out != "" {
				out += ": "
			}
			return out + s
		}
	}
	return out
}

// bundleURL downloads a release's evidence, or all.
func bundleURL(id release.ID) string {
	u := "/api/v1/projects/" + project + "/evidence/bundle"
	if id != "" {
		u += "?release=" + url.QueryEscape(string(id))
	}
	return u
}
