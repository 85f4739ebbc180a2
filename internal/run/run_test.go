package run

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestNext(t *testing.T) {
	envs := func(states ...Outcome) []Environment {
		var out []Environment
		for _, s := range states {
			out = append(out, Environment{Name: "e", State: s})
		}
		return out
	}
	for _, c := range []struct {
		s    State
		want Action
		at   int
	}{
		{State{Phase: Queued}, ActBuild, -1},
		{State{Phase: Building, Environments: envs("")}, ActBuild, -1},
		{State{Phase: Promoting, Environments: envs("", "")}, ActPromote, 0},
		{State{Phase: Promoting, Environments: envs(Waiting, "")}, ActPromote, 0},
		{State{Phase: Promoting, Environments: envs(Running, "")}, ActAwait, 0},
		{State{Phase: Promoting, Environments: envs(Succeeded, "")}, ActPromote, 1},
		{State{Phase: Promoting, Environments: envs(Succeeded, RollingBack)}, ActAwait, 1},
		{State{Phase: Promoting, Environments: envs(Failed, "")}, ActEnd, 0},
		{State{Phase: Promoting, Environments: envs(Succeeded, RolledBack, "")}, ActEnd, 1},
		{State{Phase: Promoting, Environments: envs(Succeeded, Succeeded)}, ActEnd, -1},
		{State{Phase: Ended, Environments: envs("")}, ActNothing, -1},
	} {
		if a, i := Next(c.s); a != c.want || i != c.at {
			t.Errorf("%+v: %s %d, want %s %d", c.s, a, i, c.want, c.at)
		}
	}
}

var outcomes = []Outcome{"", Running, Waiting, RollingBack, Succeeded, Failed, RolledBack, RollbackFailed, Cancelled, Superseded}

// A run never ends in success unless each of its environments did.
func TestEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := State{Phase: Promoting}
		good := true
		for range rapid.IntRange(0, 4).Draw(t, "environments") {
			o := rapid.SampledFrom(outcomes).Draw(t, "state")
			good = good && o == Succeeded
			s.Environments = append(s.Environments, Environment{Name: "e", State: o, Reason: "r"})
		}
		s.End()
		if s.Phase != Ended || (s.Outcome == Succeeded) != good {
			t.Fatalf("%+v", s)
		}
		if a, _ := Next(s); a != ActNothing {
			t.Fatalf("an ended run wants %s", a)
		}
	})
}

func TestExitCodes(t *testing.T) {
	want := map[Outcome]int{
		Succeeded: 0, Failed: 1, RolledBack: 3, Waiting: 4, Running: 4, RollbackFailed: 5, RollingBack: 5, Cancelled: 6, Superseded: 6, "": 1, "new": 1,
	}
	for o, code := range want {
		if got := ExitCode(o); got != code {
			t.Errorf("%s: %d, want %d", o, got, code)
		}
	}
}

func TestDecode(t *testing.T) {
	s := State{V: Version, Phase: Promoting, Environments: []Environment{{Name: "dev", State: Running, Rollout: "o1"}}}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil || got.Environments[0].Rollout != "o1" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "{", `{"v":2}`, `[]`} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	s.Fail(Cancelled, "why")
	if s.Phase != Ended || s.Outcome != Cancelled || s.Reason != "why" {
		t.Errorf("%+v", s)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"phase":"promoting","environments":[{"name":"dev","state":"running"}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		s, err := Decode(b)
		if err == nil {
			Next(s)
			s.End()
		}
	})
}
