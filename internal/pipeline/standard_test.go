package pipeline_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/pipeline"
)

const platformFile = `version: 1
owner: team-platform
standards:
  - name: careful
    version: 1
    rollout: {canary: {steps: [{weight: 5, bake: 15m}, {weight: 50, bake: 15m}]}}
  - name: careful
    version: 2
    purpose: services that users pay with
    rollout:
      canary: {steps: [{weight: 5, bake: 20m}, {weight: 50, bake: 15m}]}
      onInconclusive: hold
      timeout: 10m
    analysis:
      maxExcess: 0.5
      warmUp: 1m
      metrics: [http-errors, {name: http-latency, maxRatio: 1.5}, {name: dlq, kind: limit, query: dlq_depth, max: 5}]
  - name: quick
    version: 1
    rollout: {blue-green: {bake: 10m, preTraffic: [{name: shell, http: {path: /}}]}}
  - name: steady
    version: 1
    rollout: {rolling: {batch: 2, bake: 6m}, onFail: freeze}
  - name: lasting
    version: 1
    rollout: {blue-green: {bake: 10m, retireAfter: 8h}}
`

func platform(t testing.TB) pipeline.Platform {
	t.Helper()
	pl, problems := pipeline.ParsePlatform("platform.yaml", []byte(platformFile))
	if problems.Failed() {
		t.Fatal(problems.Render([]byte(platformFile), false))
	}
	return pl
}

// service reads a file whose only environment has these lines.
func service(t testing.TB, lines string, opts ...pipeline.Option) (pipeline.Environment, pipeline.Problems, string) {
	t.Helper()
	src := "version: 1\nservice: shop\nowner: team-shop\nbuild: {steps: [{name: a, kind: custom, run: x}], artifact: {type: files, path: out}}\n" +
		"environments:\n  - name: prod\n    target: {type: host, listen: ':1', instances: 8, run: ./shop, health: {http: /h}, metrics: {path: /m}}\n" + lines
	d, problems := pipeline.Parse("sluice.yaml", []byte(src), opts...)
	text := problems.Render([]byte(src), false)
	if len(d.Environments) == 0 {
		t.Fatal(text)
	}
	return d.Environments[0], problems, text
}

// A standard stands for all that it says; the newest version where none is named.
func TestStandards(t *testing.T) {
	with := pipeline.WithPlatform(platform(t))
	for _, line := range []string{"    rollout: careful\n", "    rollout: careful@2\n", "    rollout: {standard: careful@2}\n", "    rollout: {standard: careful}\n"} {
		e, problems, text := service(t, line, with)
		if problems.Failed() {
			t.Fatal(text)
		}
		r, a := e.Rollout, e.Analysis
		if r.Standard != "careful@2" || r.Strategy != pipeline.Canary || len(r.Steps) != 2 || r.Steps[0].Bake != 20*time.Minute || r.OnInconclusive != "hold" || r.Timeout != 10*time.Minute || r.RetireAfter != time.Hour {
			t.Errorf("%s%+v", line, r)
		}
		if a.MaxExcess != 0.5 || a.WarmUp != time.Minute || len(a.Metrics) != 3 || a.Alpha != 0.01 || a.Bin == 0 {
			t.Errorf("%s%+v", line, a)
		}
	}
	e, problems, text := service(t, "    rollout: quick\n    hooks: {beforeTraffic: [{name: own, http: {path: /}}]}\n", with)
	if problems.Failed() || e.Rollout.Strategy != pipeline.BlueGreen || len(e.Hooks.BeforeTraffic) != 2 || e.Hooks.BeforeTraffic[0].Name != "shell" {
		t.Errorf("%s\n%+v", text, e)
	}
	// Also where it says so inside of its strategy.
	for _, line := range []string{"    rollout: lasting\n", "    rollout: {standard: lasting, blue-green: {bake: 20m}}\n"} {
		if e, problems, text := service(t, line, with); problems.Failed() || e.Rollout.RetireAfter != 8*time.Hour {
			t.Errorf("%s%s\n%+v", line, text, e.Rollout)
		}
	}
	// The text of the standard is part of the definition, and so of its digest.
	one, _, _ := service(t, "    rollout: careful@1\n", with)
	if one.Rollout.Standard != "careful@1" || one.Rollout.Steps[0].Bake != 15*time.Minute || one.Rollout.OnInconclusive != "extend" {
		t.Errorf("%+v", one.Rollout)
	}
}

// Who uses a standard may be stricter and nothing else; who is not learns which
// standard it is, and whose.
func TestStandardsOnlyTighten(t *testing.T) {
	with := pipeline.WithPlatform(platform(t))
	canary := func(rest string) string { return "    rollout: {standard: careful@2, " + rest + "}\n" }
	for line, loose := range map[string]string{
		canary("onInconclusive: hold, timeout: 5m, retireAfter: 1s"): "",
		canary("timeout: 20m"):           "timeout is 20m and the standard's is 10m",
		canary("onInconclusive: extend"): "onInconclusive is extend and the standard's is hold",
		canary("canary: {steps: [{weight: 5, bake: 20m}, {weight: 50, bake: 15m}]}"):                                                "",
		canary("canary: {steps: [{weight: 1, bake: 10m}, {weight: 4, bake: 10m}, {weight: 40, bake: 1h}, {weight: 80, bake: 1h}]}"): "",
		canary("canary: {steps: [{weight: 5, bake: 10m}, {weight: 50, bake: 1h}]}"):                                                 "above 0 % and up to 5 % it bakes 10m and the standard 20m",
		canary("canary: {steps: [{weight: 5, bake: 20m}]}"):                                                                         "above 5 % and up to 50 % it bakes 0s and the standard 15m",
		canary("canary: {steps: [{weight: 10, bake: 1h}, {weight: 50, bake: 1h}]}"):                                                 "above 0 % and up to 5 %",
		canary("all-at-once: {bake: 10h}"):                                                                                          "strategy all-at-once is not the standard's, which is canary",
		canary("onFail: freeze"):                                                                                                    "",
		"    rollout: careful\n    analysis: {maxExcess: 0.2, alpha: 0.2, minEvents: 1}\n":                                          "",
		"    rollout: careful\n    analysis: {maxExcess: 1}\n":                                                                      "maxExcess is 1 and the standard's is 0.5",
		"    rollout: careful\n    analysis: {warmUp: 2m}\n":                                                                        "warmUp is 2m and the standard's is 1m",
		"    rollout: careful\n    analysis: {metrics: [http-errors]}\n":                                                            "metric http-latency of the standard is missing",
		"    rollout: careful\n    analysis: {metrics: [http-errors, {name: http-latency, maxRatio: 1.2}, {name: dlq, kind: limit, query: dlq_depth, max: 1}, {name: x, kind: limit, query: up, min: 1}]}\n": "",
		"    rollout: careful\n    analysis: {metrics: [http-errors, http-latency, {name: dlq, kind: limit, query: dlq_depth, max: 50}]}\n":                                                                  "metric dlq is laxer",
		"    rollout: careful\n    analysis: {metrics: [http-errors, http-latency, {name: dlq, kind: limit, query: other, max: 5}]}\n":                                                                       "metric dlq asks otherwise",
		"    rollout: {standard: quick@1, blue-green: {bake: 5m}}\n":                                                                                                                                         "bake 5m is shorter than the standard's 10m",
		"    rollout: {standard: quick@1, blue-green: {bake: 20m}}\n":                                                                                                                                        "",
		"    rollout: {standard: quick@1, blue-green: {bake: 10m, preTraffic: [{name: shell, http: {path: /}}]}}\n":                                                                                          "",
		"    rollout: {standard: quick@1, blue-green: {bake: 10m, preTraffic: [{name: shell, http: {path: /ok}}]}}\n":                                                                                        "check shell asks otherwise than the standard's",
		"    rollout: {standard: quick@1, blue-green: {bake: 10m, preTraffic: [{name: shell, command: {run: \"true\"}}]}}\n":                                                                                 "check shell asks otherwise than the standard's",
		"    rollout: {standard: lasting@1, retireAfter: 9h}\n":                                                                                                                                              "",
		"    rollout: {standard: lasting@1, retireAfter: 1s}\n":                                                                                                                                              "retireAfter is 1s and the standard's is 8h",
		"    rollout: {standard: lasting@1, blue-green: {bake: 10m, retireAfter: 1s}}\n":                                                                                                                     "retireAfter is 1s and the standard's is 8h",
		"    rollout: {standard: lasting@1, blue-green: {bake: 10m, retireAfter: 9h}}\n":                                                                                                                     "",
		"    rollout: {standard: steady@1, rolling: {batch: 1, bake: 6m}}\n":                                                                                                                                 "",
		"    rollout: {standard: steady@1, rolling: {batch: 4, bake: 6m}}\n":                                                                                                                                 "batches may be larger than the standard's",
		"    rollout: {standard: steady@1, onFail: rollback}\n":                                                                                                                                              "",
		"    rollout: {standard: steady@1, onFail: roll-forward}\n":                                                                                                                                          "onFail is roll-forward and the standard's is freeze",
	} {
		_, problems, text := service(t, line, with)
		if loose == "" {
			if problems.Failed() {
				t.Errorf("%s is stricter:\n%s", line, text)
			}
			continue
		}
		if !strings.Contains(text, loose) || !strings.Contains(text, "(loosens-standard)") || !strings.Contains(text, "of team-platform") || problems.Count(pipeline.Error) != 1 {
			t.Errorf("%s wants %q:\n%s", line, loose, text)
		}
	}
}

// An unknown standard lists those that there are.
func TestUnknownStandards(t *testing.T) {
	with := pipeline.WithPlatform(platform(t))
	for line, want := range map[string]string{
		"    rollout: carefull\n":                 "did you mean careful?",
		"    rollout: {standard: careful@9}\n":    "did you mean careful@1? the platform has careful@1, careful@2, lasting@1, quick@1 and steady@1",
		"    rollout: {standard: nothing-such}\n": "the platform has careful@1, careful@2, lasting@1, quick@1 and steady@1",
		"    rollout: {standard: 'No Name'}\n":    "write NAME@VERSION",
		"    rollout: canaryy\n":                  "did you mean canary?",
	} {
		_, problems, text := service(t, line, with)
		if !problems.Failed() || !strings.Contains(text, want) {
			t.Errorf("%s wants %q:\n%s", line, want, text)
		}
	}
	_, problems, text := service(t, "    rollout: careful@2\n")
	if !problems.Failed() || !strings.Contains(text, "no platform's standards are known here") || !strings.Contains(text, "--platform") {
		t.Errorf("without a platform:\n%s", text)
	}
}

// Every key of a platform.yaml is read, or refused by name; what is wrong in it
// is told with its place.
func TestPlatformFiles(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"version: 1\nowner", "version: 2\nowner"}:                       "version",
		{"owner: team-platform\n", ""}:                                   "has no owner",
		{"name: quick\n    version: 1", "name: careful\n    version: 1"}: "standard careful@1 is here a second time",
		{"name: quick", "name: canary"}:                                  "has the name of a strategy",
		{"weight: 50, bake: 15m}]}}", "weight: 3, bake: 15m}]}}"}:        "does not rise",
		{"maxExcess: 0.5", "maxExces: 0.5"}:                              "did you mean maxExcess",
		{"bake: 20m", "bake: 1s"}:                                        "too short",
		{"onFail: freeze", "standard: quick@1"}:                          "a standard cannot be another one",
		{"owner: team", "groups: [x]\nowner: team"}:                      "this build cannot check that an approver belongs to a group yet",
		{"version: 2\n    purpose", "version: 0\n    purpose"}:           "must be 1 to",
		{"standards:\n", "projects: {}\nstandards:\n"}:                   "not-yet",
	} {
		src := []byte(strings.Replace(platformFile, change[0], change[1], 1))
		_, problems := pipeline.ParsePlatform("platform.yaml", src)
		if text := problems.Render(src, false); !problems.Failed() || !strings.Contains(text, want) || !strings.Contains(text, "platform.yaml:") {
			t.Errorf("%q wants %q:\n%s", change[1], want, text)
		}
		checkPositions(t, src, problems)
	}
}

// Whatever a platform's file and a service's file say: no panic, places in the
// file, and a service that is accepted is complete.
func FuzzPlatform(f *testing.F) {
	f.Add([]byte(platformFile), "careful@2")
	f.Add([]byte(platformFile), "{standard: steady@1, rolling: {batch: 1}}")
	f.Add([]byte("version: 1\nowner: x\nstandards: [{name: a, version: 1, rollout: a}]"), "a")
	f.Fuzz(func(t *testing.T, src []byte, rollout string) {
		pl, problems := pipeline.ParsePlatform("platform.yaml", src)
		checkPositions(t, src, problems)
		if problems.Failed() || strings.ContainsAny(rollout, "\r\n") {
			return
		}
		file := "version: 1\nservice: shop\nowner: team\nbuild: {steps: [{name: a, kind: custom, run: x}], artifact: {type: files, path: out}}\n" +
			"environments:\n  - name: prod\n    target: {type: host, listen: ':1', instances: 8, run: ./shop}\n    rollout: " + rollout + "\n"
		if d, problems := pipeline.Parse("sluice.yaml", []byte(file), pipeline.WithPlatform(pl)); !problems.Failed() {
			e := d.Environments[0]
			if w := pipeline.Weights(e.Rollout); w[len(w)-1].Weight != 100 {
				t.Fatalf("%+v", e.Rollout)
			}
		}
	})
}
