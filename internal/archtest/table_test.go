package archtest

// row says what a package may import of this module, and why that is right.
type row struct {
	pkg string
	// may are packages of this module, by their names below internal, and exactly
	// those that are imported.
	may string
	// tests are further ones that its tests import. Packages whose names end with
	// "test", those below the tested one, and the shared words (release, verdict)
	// need not be named; see also anything.
	tests string
	why   string

	// stage marks a package that decides. It reads no clock, no database, no network
	// and starts no goroutine; except names what it needs nonetheless, with the
	// reason. libs are the libraries that it may use: each was looked at for the same.
	stage  bool
	libs   string
	except map[string]string
}

// anything is for tests and measurements of the whole product, which look at
// every layer, and which no other package imports.
const anything = "*"

// The leaves and stages come in the order in which data flows, then the
// composition, the adapters, the edges and the wiring.
var table = []row{
	// Leaves.
	{
		pkg: "release", stage: true,
		libs: "github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer",
		why:  "the vocabulary that all others share, so it knows none of them; an id is the digest of canonical JSON",
	},
	{
		pkg: "verdict", stage: true,
		why: "four words with reasons, spoken by the judge and understood by rollouts",
	},
	{pkg: "freeport", why: "ports for who listens later, which this machine's other processes of the product are not given meanwhile"},
	{pkg: "crashpoint", why: "names the places at which tests let the real program die; nothing in it outside of builds with its tag"},
	{
		pkg: "agent/wire", may: "release", stage: true,
		why: "the documents between control plane and agent; both ends import it, so it imports neither",
	},

	// Stages.
	{
		pkg: "pipeline", may: "release", stage: true,
		libs: "go.yaml.in/yaml/v4 go.yaml.in/yaml/v4/plugin/loaderlimits golang.org/x/text/width",
		why:  "a definition is bytes in, plan or problems out: whoever reads the file is elsewhere",
	},
	{
		pkg: "run", may: "gate release verdict", stage: true,
		why: "what each environment's state means for a run: gate decisions and verdicts are its inputs",
	},
	{
		pkg: "artifact", may: "release", stage: true,
		libs: "github.com/opencontainers/go-digest github.com/opencontainers/image-spec/specs-go github.com/opencontainers/image-spec/specs-go/v1 golang.org/x/sys/unix oras.land/oras-go/v2/errdef",
		except: map[string]string{
			"os":      "its input and output are trees of files, always below an os.Root that the caller opened",
			"syscall": "O_NOFOLLOW and O_NONBLOCK when it opens a file of such a tree",
		},
		why: "packs and unpacks trees, and names content; where content is stored is behind its Store interface",
	},
	{
		pkg: "evidence", may: "release verdict", stage: true,
		libs: "github.com/secure-systems-lab/go-securesystemslib/dsse github.com/transparency-dev/formats/log github.com/transparency-dev/merkle/compact github.com/transparency-dev/merkle/proof github.com/transparency-dev/merkle/rfc6962 golang.org/x/mod/sumdb/note",
		except: map[string]string{
			"crypto/rand":    "keys, signatures and the salts of commitments have to be unpredictable",
			"sync.WaitGroup": "Verify checks signatures on all cores: 5 000 statements a second are the budget; it waits for its workers, and what it reports does not depend on their order",
		},
		why: "statements are made and verified offline, from bytes; keeping them is the store's matter, key files are evidence/keyfile's",
	},
	{
		pkg: "gate", may: "release", stage: true, libs: "cel.dev/cel-go/cel",
		why: "facts and a policy in, a decision with its reason out; CEL programs run under a cost limit",
	},
	{
		pkg: "promotion", may: "gate pipeline", stage: true,
		why: "which release may enter which environment: the plan's order plus the gates' decisions",
	},
	{
		pkg: "rollout", may: "pipeline release verdict", stage: true,
		why: "compiles a strategy of the plan to steps, and walks them on verdicts that come in as data; never calls the judge or a target",
	},
	{
		pkg: "analysis", may: "verdict", stage: true,
		except: map[string]string{
			"math/rand/v2": "seeded generators only: the same samples give the same verdict, and the benchmark table is the same each time",
		},
		why: "samples in, verdict out; it does not know what a rollout or a release is",
	},
	{
		pkg: "preview", may: "analysis pipeline release rollout", stage: true,
		why: "what a plan will do before it does it: compiles as rollout will and asks the judge with assumed traffic, so plan and lint cannot disagree with a real run",
	},

	// Composition.
	{
		pkg: "control", may: "agent/wire analysis artifact blob check crashpoint evidence gate pipeline preview promotion release rollout run runner source store target/host verdict",
		why: "the only composer: it loads, asks the stages, commits, and acts through interfaces that it declares (Steered, Driven, Metrics, Blobs, …). runner and source are called for one build at a time; of target/host it uses how documents and reports read, of blob its errors",
	},

	// Adapters.
	{
		pkg: "store", may: "crashpoint registry release",
		why: "rows, leases and the one-transaction order; implements the registry's index beside them, so that a tag and its evidence commit together. It knows no stage: states are JSON to it",
	},
	{pkg: "blob", may: "release", why: "content by digest in a folder"},
	{
		pkg: "source", may: "release",
		why: "exact commits of a Git repository; whatever a repository says is data, so it needs no definition",
	},
	{
		pkg: "runner", may: "pipeline release runner/report runner/sandbox", tests: "source",
		why: "runs the steps of a plan; who wants them run and where results go is the caller's",
	},
	{
		pkg: "check", may: "pipeline release runner runner/sandbox", tests: "runner/sandbox/sandboxtest",
		why: "asks a running version a definition's checks; commands are builds of one step to the runner, and a browser lives in the same sandbox",
	},
	{pkg: "runner/report", why: "go test and JUnit files to counts; a parser with no friends"},
	{pkg: "rights", why: "a process gives up its capabilities; whom it then runs is the caller's"},
	{pkg: "runner/sandbox", may: "rights", why: "namespaces for one child process; knows of no build"},
	{pkg: "runner/sandbox/sandboxtest", may: "machinetest runner/sandbox", why: "tests say that they need a real sandbox"},
	{
		pkg: "registry", may: "release",
		why: "distribution behind immutable tags, referrers and authentication; declares the index that it needs",
	},
	{pkg: "registry/registrytest", may: "registry release", why: "the suite that every index passes"},
	{
		pkg: "registry/remote", may: "artifact release", tests: "registry",
		why: "the client side: artifact.Store over HTTP, for the agent and the command line, neither of which needs a registry inside",
	},
	{
		pkg: "evidence/keyfile", may: "evidence",
		why: "private keys in 0600 files, kept out of evidence because that touches no disk",
	},
	{pkg: "secret", why: "references to values in files and variables"},
	{
		pkg: "target/host", may: "agent/wire pipeline release rollout store",
		why: "speaks of rollouts in the agent's documents; desired states live in the store, which both replicas and agents reach",
	},
	{
		pkg: "metric/embedded", may: "agent/wire release", tests: "agent/agenttest",
		why: "stores what agents scraped and answers PromQL; which query means what is the judge's",
	},
	{
		pkg: "agent", may: "agent/confine agent/journal agent/proxy agent/supervise agent/wire artifact evidence registry/remote release",
		why: "the data plane: it pulls, verifies and runs, and has no way to reach the control plane's state but its protocol",
	},
	{pkg: "agent/journal", may: "release", why: "the agent's append-only memory of generations"},
	{
		pkg: "agent/proxy", may: "agent/wire release",
		why: "the hot path: weights in, counts out, in the wire's terms; nothing of the agent around it",
	},
	{pkg: "agent/confine", may: "rights", why: "where a service starts: without the files of those that run it"},
	{pkg: "agent/supervise", may: "agent/confine agent/wire freeport release secret", why: "processes of revisions, as the desired state words them"},
	{
		pkg: "agent/agenttest", may: "agent agent/wire artifact evidence machinetest porttest release",
		why: "a control plane at the wire and a service that misbehaves on demand",
	},
	{pkg: "store/storetest", may: "machinetest registry registry/registrytest release store", why: "the suite that both dialects pass, and a real PostgreSQL for it"},

	// Edges.
	{
		pkg: "httpapi", may: "agent/wire control evidence pipeline preview release rollout store", tests: "blob",
		why: "requests to control's commands and back; of the store it reads rows and maps errors, once, to statuses",
	},
	{
		pkg: "webui", may: "control evidence gate httpapi pipeline release rollout run store verdict", tests: "analysis check preview",
		why: "renders control's views; the words of states and verdicts come from the packages that own them, and who asks is httpapi's to say: one way in, one answer",
	},
	{
		pkg: "cli", may: "agent analysis artifact control demo evidence httpapi pipeline preview registry/remote release rollout run runner runner/sandbox server source store verdict", tests: "gate",
		why: "a client of the API and of the registry, whose documents are control's types, and whose words (states, phases) belong to run and rollout; starts server and agent; lints, plans, judges and verifies files without a server, so it calls those stages itself, and finds the repository by source. Of store it knows the error of a folder in use, of runner the names of isolations, of its sandbox what every build step is shown",
	},

	{
		pkg: "demo", may: "control evidence freeport httpapi release run runner server verdict", tests: "pipeline",
		why: "a user of the product in one process: starts a server, speaks its API, verifies its evidence; no other package knows of it",
	},

	// Wiring.
	{
		pkg: "server", may: "agent artifact blob check control evidence evidence/keyfile gate httpapi metric/embedded pipeline registry registry/remote release runner secret store target/host webui", tests: "agent/wire runner/sandbox",
		why: "puts one control plane together from all adapters; the one place that knows which implementation stands behind which interface. Its tests speak for hosts at the wire",
	},
	{
		pkg: "cmd/sluice", may: "cli runner/sandbox", tests: anything,
		why: "one binary: the command line, and the first process of a sandbox, which has to run before anything else",
	},
	{
		pkg: "faults", tests: anything,
		why: "tests alone: kills and stalls the whole product and looks at every layer afterwards",
	},
	{pkg: "bench", may: anything, tests: anything, why: "a program that measures the budgets of the product and of each layer by itself"},
	{pkg: "server/servertest", may: "control machinetest", why: "a real server in a child process, a client, a repository and load, for tests"},
	{pkg: "machinetest", why: "how long tests wait for a slow machine, and what follows where it lacks something; it knows nothing of the product"},
	{pkg: "porttest", why: "ports that nobody else takes, for tests; it knows nothing of the product"},
	{
		pkg: "simtest", may: "agent/wire analysis pipeline release rollout target/host verdict",
		why: "plays seeded worlds over the packages that decide; store, control and agents are modelled in it, so that ten thousand take two minutes",
	},
	{pkg: "compattest", tests: anything, why: "what was published once: the API document and kept data folders against today's code"},
	{pkg: "pipeline/schemagen", may: "pipeline", why: "go:generate: schema and reference page from the definition's types"},
	{pkg: "scripts/clidoc", may: "cli", tests: "pipeline", why: "go:generate: the reference page of the command line, from its own help; its tests read the definitions in the documentation"},
	{pkg: "scripts/testsum", why: "tells the story of a test run; imports nothing, so it runs when the rest does not build"},
	{pkg: "archtest", why: "reads source files, not packages"},
}

// banned are imports that belong to one place, or to none.
var banned = []struct {
	path string // itself and what is below it
	only string // packages that may, and their tests
	why  string
}{
	{"database/sql", "store store/storetest compattest", "SQL is the store's: nobody else can keep the one-transaction order (compattest dumps kept folders)"},
	{"github.com/uptrace/bun", "store store/storetest", "as database/sql"},
	{"github.com/jackc/pgx/v5", "store store/storetest", "as database/sql"},
	{"github.com/pressly/goose/v3", "store store/storetest", "as database/sql"},
	{"modernc.org/sqlite", "store store/storetest", "as database/sql"},
	{"os/exec", "agent/confine agent/supervise agent/agenttest bench demo runner runner/sandbox runner/sandbox/sandboxtest scripts/testsum server server/servertest source store/storetest", "who starts processes has to end them: few may"},
	{"unsafe", "runner/sandbox", "system calls that no library wraps"},
	{"github.com/sirupsen/logrus", "registry", "distribution logs through its global logger; we only tame it there"},
	{"log", "", "log/slog, and the logger is passed in"},
	{"github.com/distribution/distribution/v3", "registry", "it panics on bad settings and has global state: behind one wrapper"},
	{"oras.land/oras-go/v2", "artifact registry/remote registry", "transport of artifacts has one client"},
	{"github.com/danielgtaylor/huma/v2", "httpapi", "the API has one edge"},
	{"github.com/spf13/cobra", "cli", "flags are parsed at one edge"},
	{"github.com/a-h/templ", "webui", "HTML is rendered at one edge"},
	{"cel.dev/cel-go", "gate", "expressions run in one place, under its cost limit"},
	{"go.yaml.in/yaml/v4", "pipeline", "YAML is parsed in one place, strictly and bounded"},
	{"gopkg.in", "", "superseded modules; go.yaml.in/yaml/v4 is the YAML here"},
	{"github.com/prometheus/prometheus", "metric/embedded", "a database behind one adapter"},
	{"io/ioutil", "", "deprecated: io and os have it"},
	{"math/rand", "", "math/rand/v2"},
	{"encoding/gob", "", "what is stored or sent is versioned JSON"},
	{"plugin", "", "one static binary"},
	{"C", "", "one static binary without cgo"},
	{"github.com/pkg/errors", "", "errors and %w"},
}

// stageBans are imports that no stage package has, unless its row says why.
var stageBans = map[string]string{
	"database/sql":  "a database",
	"net":           "the network",
	"net/http":      "the network",
	"net/rpc":       "the network",
	"net/smtp":      "the network",
	"crypto/tls":    "the network",
	"os":            "the machine: files, environment, processes",
	"os/exec":       "processes",
	"os/signal":     "processes",
	"os/user":       "the machine",
	"syscall":       "the machine",
	"log":           "an effect: return what is worth saying",
	"log/slog":      "an effect: return what is worth saying",
	"crypto/rand":   "chance: a decision must be the same when it is replayed",
	"math/rand/v2":  "chance: a decision must be the same when it is replayed",
	"testing":       "tests",
	"runtime/pprof": "the process",
	"expvar":        "the process",
}

// stageCalls are names that no stage package uses, unless its row says why.
var stageCalls = map[string]map[string]string{
	"time": {
		"Now": "reads the clock", "Since": "reads the clock", "Until": "reads the clock",
		"Sleep": "waits", "After": "waits", "Tick": "waits", "NewTimer": "waits", "NewTicker": "waits", "AfterFunc": "waits and starts a goroutine",
	},
	"sync": {"WaitGroup": "waits for goroutines, so it starts some"},
	"context": {
		"WithTimeout": "reads the clock", "WithDeadline": "reads the clock", "WithTimeoutCause": "reads the clock", "WithDeadlineCause": "reads the clock",
		"AfterFunc": "starts a goroutine",
	},
	"path/filepath": {
		"Walk": "reads the disk", "WalkDir": "reads the disk", "Glob": "reads the disk", "EvalSymlinks": "reads the disk", "Abs": "reads the working folder",
	},
	"math/rand/v2": {
		"Int": "is seeded by chance", "IntN": "is seeded by chance", "Int32": "is seeded by chance", "Int32N": "is seeded by chance",
		"Int64": "is seeded by chance", "Int64N": "is seeded by chance", "Uint32": "is seeded by chance", "Uint64": "is seeded by chance",
		"Uint": "is seeded by chance", "UintN": "is seeded by chance", "Uint32N": "is seeded by chance", "Uint64N": "is seeded by chance",
		"Float32": "is seeded by chance", "Float64": "is seeded by chance", "ExpFloat64": "is seeded by chance", "NormFloat64": "is seeded by chance",
		"Perm": "is seeded by chance", "Shuffle": "is seeded by chance", "N": "is seeded by chance",
	},
}

// badNames say nothing about what is inside, and collect everything.
var badNames = map[string]bool{
	"util": true, "utils": true, "common": true, "types": true, "helpers": true, "helper": true,
	"misc": true, "base": true, "shared": true, "core": true, "lib": true, "manager": true,
}

// maxLines is where a file needs a table of contents, and so wants to be two.
const maxLines = 700
