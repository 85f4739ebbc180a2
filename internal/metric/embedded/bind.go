package embedded

import (
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/sluicehq/sluice/internal/release"
)

// Bind narrows every selector of a query to the series of one service in one
// environment, so that a release is never judged by another's numbers. The zero
// key binds nothing. A query that names another service is an error: bound, it
// could never answer.
func Bind(query string, key release.Key) (string, error) {
	if err := checkLength(query); err != nil {
		return "", err
	}
	e, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return "", fmt.Errorf("couldn't read query %q: %w", query, err)
	}
	if key == (release.Key{}) {
		return query, nil
	}
	var other error
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		for _, l := range []struct{ name, value string }{{"project", key.Project}, {"service", key.Service}, {"environment", key.Environment}} {
			named := false
			for _, m := range v.LabelMatchers {
				if m.Name != l.name {
					continue
				}
				if !m.Matches(l.value) && other == nil {
					other = fmt.Errorf("the query asks for %s, and only series of %s in %s are looked at", m, key.Service, key.Environment)
				}
				named = named || m.Type == labels.MatchEqual
			}
			if named {
				continue
			}
			v.LabelMatchers = append(v.LabelMatchers, labels.MustNewMatcher(labels.MatchEqual, l.name, l.value))
		}
		return nil
	})
	if other != nil {
		return "", other
	}
	out := e.String()
	if len(out) > 2*maxQuery {
		return "", errors.New("the query has too many selectors to be bound to the service")
	}
	return out, nil
}
