package pipeline

// RuleIDs returns the names of all rules.
func RuleIDs() []string {
	return each(rules, func(r rule) string { return r.id })
}

// RuleSeverity returns the severity that the table of rules gives, or "".
func RuleSeverity(id string) Severity {
	for _, r := range rules {
		if r.id == id {
			return r.severity
		}
	}
	return ""
}

// StrategyWords are the bare names of strategies.
func StrategyWords() []string { return strategyWords() }
