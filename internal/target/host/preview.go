package host

import (
	"slices"

	"github.com/sluicehq/sluice/internal/agent/wire"
	"github.com/sluicehq/sluice/internal/pipeline"
	"github.com/sluicehq/sluice/internal/release"
)

// anyPort lets the agent choose where the candidate can be asked before any user
// reaches it; reports say where that is.
const anyPort = ":0"

// Preview has a document's hosts answer with the candidate alone at a second
// address: the target's own, or one that each agent chooses.
func Preview(d *wire.Desired, t pipeline.Target) {
	if d.Preview = t.Preview; d.Preview == "" {
		d.Preview = anyPort
	}
	if !slices.Contains(d.Requires, wire.FeaturePreview) {
		d.Requires = append(d.Requires, wire.FeaturePreview)
	}
}

// Previews are where the wanted hosts answer with the candidate alone.
func Previews(reports []Report, key release.Key, t pipeline.Target) []string {
	return addresses(reports, key, t, func(s wire.Service) string { return s.Preview })
}

// Synthesize has hosts make traffic of their own, marked and counted apart.
func Synthesize(d *wire.Desired, s pipeline.Synthetic) {
	d.Synthetic = &wire.Synthetic{Rate: s.Rate, Paths: s.Paths}
	if !slices.Contains(d.Requires, wire.FeatureSynthetic) {
		d.Requires = append(d.Requires, wire.FeatureSynthetic)
	}
}
