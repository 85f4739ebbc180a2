package pipeline

// StageRisk names the risk that a kind of step removes.
func StageRisk(k Kind) string {
	return map[Kind]string{
		"fetch":       "a dependency that is missing or not the one that was pinned",
		"format":      "diffs that hide changes in noise",
		"lint":        "mistakes that a reader would have found",
		"compile":     "code that does not build",
		"unit":        "a part that does not do what its author meant",
		"component":   "parts that do not work together inside the service",
		"static":      "known classes of bugs and insecure code",
		"scan":        "known vulnerabilities, leaked secrets, forbidden licences",
		"package":     "an artifact that cannot be made, or made twice the same",
		"integration": "a service that does not work with what it depends on",
		"contract":    "a change that breaks the services that depend on this one",
		"e2e":         "a user's way through the product that no longer works",
		"performance": "a release that is slower or hungrier than the one before",
		"migrate":     "a schema that the running release cannot live with",
		"custom":      "a risk of this service's own",
	}[k]
}

// GateRisk names the risk that a gate removes.
func GateRisk(g Gate) string {
	switch {
	case g.CEL != "":
		return "a release that breaks this rule"
	case g.Name == TestsPassed:
		return "a release whose tests failed or never ran"
	}
	return "a release without the evidence that " + g.Name + " wants"
}

// EnvironmentRisk names the risk that an environment removes: what it is for
// where the file says so.
func EnvironmentRisk(d Definition, e Environment) string {
	switch {
	case e.Purpose != "":
		return "what " + e.Name + " is for: " + e.Purpose
	case Production(d, e.Name):
		return "users who wait for what is already built"
	case len(e.After) == 0:
		return "an artifact that does not start or serve anywhere"
	}
	return "a failure that only shows where it runs like production"
}

// RolloutRisk names the risk that a strategy removes.
func RolloutRisk(r Rollout) string {
	switch r.Strategy {
	case Canary, Linear:
		return "a bad release that reaches every user before it is seen"
	case TrafficSplitting:
		return "a bad release that reaches every user before it was evaluated on some"
	case Rolling:
		return "a release that cannot run, found on all instances at once"
	case BlueGreen:
		return "a release that users meet before it was tried, and a slow way back"
	case Immutable:
		return "instances that differ because they were changed in place"
	}
	const leaves = "; it leaves that every user meets a bad release at once"
	if r.Bake > 0 {
		return "a bad release that counts as done before it was watched" + leaves
	}
	return "two versions side by side for longer than a switch takes" + leaves
}

// Risks of what every environment may add.
const (
	PathRisk     = "a release that never ran where a failure is cheap"
	ApprovalRisk = "a change that nobody took responsibility for"
	VerifyRisk   = "a rollout that ends well on a service that does not answer"
)
