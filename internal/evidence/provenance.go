package evidence

import (
	"fmt"

	"github.com/sluicehq/sluice/internal/release"
)

// Types of the predicates that others defined.
const (
	TypeProvenance = "https://slsa.dev/provenance/v1"
	TypeTestResult = "https://in-toto.io/attestation/test-result/v0.1"
)

// BuildType names how Sluice builds; it defines the parameters of [Provenance].
const BuildType = "https://sluice.dev/build/v1"

// Resource is an in-toto ResourceDescriptor. Digests are bare hex by algorithm.
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	MediaType   string            `json:"mediaType,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

// Provenance is SLSA provenance v1: how an artifact was built.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
	// Payloads is an extension field: logs and other payloads of the build.
	Payloads []Commitment `json:"sluice_payloads,omitempty"`
}

// BuildDefinition is what went into a build.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   BuildParameters    `json:"externalParameters"`
	InternalParameters   InternalParameters `json:"internalParameters"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies,omitempty"`
}

// BuildParameters is what the user controls.
type BuildParameters struct {
	Project    string         `json:"project"`
	Service    string         `json:"service"`
	Repository string         `json:"repository"`
	Path       string         `json:"path"`
	Commit     string         `json:"commit"`
	Definition release.Digest `json:"definition"`
}

// InternalParameters is what the builder controls.
type InternalParameters struct {
	Isolation string   `json:"isolation"`         // namespaces, or none
	Network   []string `json:"network,omitempty"` // steps that had the network
	Steps     []string `json:"steps,omitempty"`   // in the order of their end
}

// RunDetails is how the build ran.
type RunDetails struct {
	Builder    Builder       `json:"builder"`
	Metadata   BuildMetadata `json:"metadata"`
	Byproducts []Resource    `json:"byproducts,omitempty"`
}

// Builder is who is trusted to have built.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// BuildMetadata names the build and its time.
type BuildMetadata struct {
	InvocationID string `json:"invocationId"` // the run
	StartedOn    Stamp  `json:"startedOn"`
	FinishedOn   Stamp  `json:"finishedOn"`
}

// PredicateType implements [Predicate].
func (Provenance) PredicateType() string { return TypeProvenance }
func (p Provenance) check() error {
	if p.BuildDefinition.BuildType == "" || p.RunDetails.Builder.ID == "" {
		return fmt.Errorf("%w: provenance names a buildType and a builder", ErrInvalid)
	}
	_, started := p.RunDetails.Metadata.StartedOn.Time()
	_, finished := p.RunDetails.Metadata.FinishedOn.Time()
	return firstError(started, finished, checkPayloads(p.Payloads))
}

// Results of a [TestResult].
const (
	TestsPassed = "PASSED"
	TestsWarned = "WARNED"
	TestsFailed = "FAILED"
)

// TestResult is in-toto's test-result v0.1, for build steps that report tests
// and for the checks of a running version.
type TestResult struct {
	Result        string     `json:"result"`
	Configuration []Resource `json:"configuration"` // the step's or check's definition
	URL           string     `json:"url,omitempty"`
	PassedTests   []string   `json:"passedTests,omitempty"`
	WarnedTests   []string   `json:"warnedTests,omitempty"`
	FailedTests   []string   `json:"failedTests,omitempty"`
	// The rest are extension fields.
	Run         string       `json:"sluice_run,omitempty"`
	Step        string       `json:"sluice_step,omitempty"`
	Environment string       `json:"sluice_environment,omitempty"`
	At          Stamp        `json:"sluice_at"`
	Counts      *TestCounts  `json:"sluice_counts,omitempty"`
	Payloads    []Commitment `json:"sluice_payloads,omitempty"` // the report, the log
	// Byproducts name blobs that a check left: what was printed or answered
	// (output/NAME) and the picture of a page (screenshot/NAME).
	Byproducts []Resource `json:"sluice_byproducts,omitempty"`
}

// TestCounts sums a report up, whose names may be too many for a statement.
type TestCounts struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// PredicateType implements [Predicate].
func (TestResult) PredicateType() string { return TypeTestResult }
func (p TestResult) check() error {
	if len(p.Configuration) == 0 {
		return fmt.Errorf("%w: a test result names its configuration", ErrInvalid)
	}
	_, err := p.At.Time()
	return firstError(oneOf("result", p.Result, TestsPassed, TestsWarned, TestsFailed), err, checkPayloads(p.Payloads))
}
