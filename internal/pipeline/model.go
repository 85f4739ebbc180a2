package pipeline

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/sluicehq/sluice/internal/release"
)

// model is the whole of a sluice.yaml: every key, its type, its meaning.
var model = object("definition", Definition{},
	key("version", "Version of the file's format. This build reads version 1.", version(),
		func(d *Definition, v int) { d.Version = v }, required),
	key("service", "Name of the service.", name(), func(d *Definition, v string) { d.Service = v }, required),
	key("owner", "Who answers for the service: a team or a person.", text(notBlank, atMost(128)), func(d *Definition, v string) { d.Owner = v }, required),
	key("layer", "Layer of the service. It must match the platform's registration, where there is one.",
		oneOf("a layer", []string{"foundation", "platform", "workload-infra", "application"}), func(d *Definition, v string) { d.Layer = v }),
	key("source", "Where protected changes come from.", sourceModel, func(d *Definition, v Source) { d.Source = v }),
	key("build", "How the artifact is made, once.", buildModel, func(d *Definition, v Build) { d.Build = v }, required),
	key("environments", "The places that a release is promoted into. The first has no after.", list(environmentModel, 1),
		func(d *Definition, v []Environment) { d.Environments = v }, required),

	notYet[Definition]("triggers", "start runs by triggers", "start them with `sluice run`, also from a hook of your forge or from cron"),
	notYet[Definition]("on", "start runs by triggers", "start them with `sluice run`, also from a hook of your forge or from cron"),
	notYet[Definition]("flags", "move feature flags", "let the service read its flags itself"),
	notYet[Definition]("migrations", "check and order migrations", "run them in a step of kind migrate, expanding only"),
	notYet[Definition]("contracts", "compare event and API contracts", "compare them in a step of kind contract"),
	notYet[Definition]("slos", "judge service level objectives", "use an analysis metric of kind rate or limit"),
	notYet[Definition]("notify", "send notifications", "watch the run with `sluice watch RUN` or the web page"),
	notYet[Definition]("dependencies", "check the services that this one depends on", "ask them in a verify check"),
	notYet[Definition]("reversibility", "declare what a rollback does to data", "keep releases reversible: expand first, contract a release later"),
)

func version() codec[int] {
	c := integer(1, 1)
	inner := c.read
	c.read = func(p *parser, n *node, at string) (int, bool) {
		if t := p.follow(n); t.Kind == yaml.ScalarNode && t.ShortTag() == "!!int" && t.Value != "1" {
			p.report(n, at, "version", fmt.Sprintf("this build reads version 1 of the format, not %s", clip(t.Value)), "write version: 1, or use a newer sluice")
			return 0, false
		}
		return inner(p, n, at)
	}
	return c
}

var sourceModel = object("source", Source{},
	key("protected", "Branch that protected changes come from. It must match the platform's registration, where there is one.",
		text(notBlank, atMost(200), branch), func(s *Source, v string) { s.Protected = v }),
)

var buildModel = described(besides(object("build", Build{},
	key("steps", "Isolated commands, run in parallel as far as needs allows.", list(stepModel, 1), func(b *Build, v []Step) { b.Steps = v }, required),
	key("artifact", "What the build hands over; short for artifacts with one entry. One of the two must be there.", artifactModel,
		func(b *Build, v Artifact) { b.Artifacts = append([]Artifact{v}, b.Artifacts...) }),
	key("artifacts", "What the build hands over. This build takes exactly one.", list(artifactModel, 1),
		func(b *Build, v []Artifact) { b.Artifacts = append(b.Artifacts, v...) }),
	notYet[Build]("reproducible", "build twice and compare digests", "compare the digests of two runs of the same commit"),
	notYet[Build]("buildspec", "run a CodeBuild buildspec.yml", "write its commands as steps"),
), checkArtifacts), func(s *shape) { s.oneOf = []string{"artifact", "artifacts"} })

// checkArtifacts wants exactly one artifact: hosts run one.
func checkArtifacts(p *parser, at string, b Build) bool {
	one, many := p.positions.Has(at+".artifact"), p.positions.Has(at+".artifacts")
	switch {
	case one && many:
		p.at(p.keyAt(at+".artifacts"), at+".artifacts", Error, "artifact-twice", "build has both artifact and artifacts", "keep one of them; artifact is short for artifacts with one entry")
	case !one && !many:
		p.at(p.keyAt(at), at, Error, "missing-key", "build has no artifact", "add artifact: {type: files, path: out}, the folder that the steps fill")
	case len(b.Artifacts) > 1:
		p.refuse(p.keyAt(at+".artifacts[1]"), at+".artifacts[1]", refusal{cannot: "put more than one artifact into a release", nearest: "let the steps fill one folder and hand that over"})
	default:
		return true
	}
	return false
}

var artifactModel = object("artifact", Artifact{Name: "main"},
	key("name", "Name of the artifact.", name(), func(a *Artifact, v string) { a.Name = v }, byDefault("main")),
	key("type", "What it is: files is a folder or file, packed so that equal content has an equal digest.", oneOf("a type of artifact", []string{"files"},
		refuseAll("release artifacts of type %s", "hand over the files themselves: type: files",
			"binary", "image", "container", "container-image", "oci", "lambda-zip", "zip", "helm", "helm-chart", "manifests", "terraform", "terraform-module",
			"cloudformation", "cdk", "ami", "machine-image")...),
		func(a *Artifact, v string) { a.Type = v }, required),
	key("path", "Folder or file that the steps leave, inside the checkout.", text(notBlank, inside), func(a *Artifact, v string) { a.Path = v }, required),
)

var stepModel = object("step", Step{Timeout: 30 * time.Minute},
	key("name", "Name of the step.", name(), func(s *Step, v string) { s.Name = v }, required),
	key("kind", "What the step is for. The list goes from cheap to expensive; lint warns when a cheap one waits for an expensive one.",
		oneOf("a kind of step", Kinds), func(s *Step, v Kind) { s.Kind = v }, required),
	key("run", "Command line for sh.", text(notBlank, atMost(64<<10)), func(s *Step, v string) { s.Run = v }, required),
	key("needs", "Steps that must have succeeded before.", list(name(), 0), func(s *Step, v []string) { s.Needs = v }),
	key("network", "Whether the step may use the network.", boolean(), func(s *Step, v bool) { s.Network = v }, byDefault("false")),
	key("cache", "Names of folders that are kept between runs.", list(name(), 0), func(s *Step, v []string) { s.Cache = v }),
	key("env", "Variables of the command.", mapOf(variable("SLUICE_"), valueModel), func(s *Step, v map[string]Value) { s.Env = v }),
	key("timeout", "How long the step may take.", duration(time.Second), func(s *Step, v time.Duration) { s.Timeout = v }, byDefault("30m")),
	key("reports", "Files that the step writes and that become evidence.", list(reportModel, 0), func(s *Step, v []Report) { s.Reports = v }),
	imageKey(),
)

// imageKey refuses container images, and tells of a floating tag too, because
// the digest is needed the day that they are taken.
func imageKey() member[Step] {
	m := notYet[Step]("image", "run a step in a container image", "install the tools on the machine that runs the steps")
	m.read = func(p *parser, n *node, at string, _ *Step) bool {
		p.refuse(p.keyAt(at), at, *m.shape.refusal)
		if s, ok := text().read(p, n, at); ok && !strings.Contains(s, "@sha256:") {
			p.at(p.valueAt(at), at, Error, "floating-tag", fmt.Sprintf("%q can be another image tomorrow", clip(s)), "name the image by digest: "+clip(strings.SplitN(s, ":", 2)[0])+"@sha256:…")
		}
		return false
	}
	return m
}

var reportModel = object("report", Report{},
	key("format", "Format of the file.", oneOf("a format of reports", []string{"go-test", "junit"},
		refuseAll("read reports of format %s", "write JUnit XML, or gate on the step's exit code",
			"sarif", "cobertura", "lcov", "cyclonedx", "spdx", "trivy", "grype", "osv", "openvex", "tap")...),
		func(r *Report, v string) { r.Format = v }, required),
	key("path", "File that the step writes, inside the checkout.", text(notBlank, inside), func(r *Report, v string) { r.Path = v }, required),
)

var valueModel = either(
	as(plain(), func(s string) Value { return Value{Plain: s} }),
	object("secretValue", Value{},
		key("secret", "Reference to a secret, file:PATH of a file in a folder of secrets, which the host's operator names. The value is read where it is used and never stored.", secretRef(), func(v *Value, s string) { v.Secret = s }, required)),
)

// secretStores are schemes that Sluice knows and this build cannot read.
var secretStores = refuseAll("read %s secrets", "put the secret into a file of mode 0600 and write file:PATH",
	"vault", "aws", "aws-sm", "secretsmanager", "ssm", "gcp", "azure", "k8s", "kubernetes", "env", "op", "sops")

func secretRef() codec[string] {
	return also(text(notBlank, atMost(1024)), func(p *parser, at string, s string) bool {
		scheme, rest, found := strings.Cut(s, ":")
		switch r, known := refusedWord(secretStores, scheme); {
		case found && scheme == "file" && rest != "" && !strings.Contains("/"+rest+"/", "/../"):
			return true
		case found && scheme == "file":
			p.at(p.valueAt(at), at, Error, "bad-secret", fmt.Sprintf("%q names no file", clip(s)), "write file:PATH, without ..")
		case found && known:
			p.refuse(p.valueAt(at), at, r)
		default:
			// The text is not quoted: it may be the secret itself.
			p.at(p.valueAt(at), at, Error, "bad-secret", label(at)+" is not a reference to a secret", "put the secret into a file of mode 0600 and write file:PATH; a secret's value never belongs here")
		}
		return false
	})
}

func refuseAll(cannot, nearest string, words ...string) []refusal {
	var out []refusal
	for _, w := range words {
		out = append(out, refusal{word: w, cannot: fmt.Sprintf(cannot, w), nearest: nearest})
	}
	return out
}

// Checks of single texts.

func name() codec[string] {
	return described(text(func(s string) *complaint {
		if err := release.CheckName(s); err != nil {
			return &complaint{"bad-name", fmt.Sprintf("%q is not a name", clip(s)), nameMend(s)}
		}
		return nil
	}), func(s *shape) { s.pattern = `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$` })
}

func nameMend(s string) string {
	mended := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(clip(s)), "-"), "-0123456789")
	if release.CheckName(mended) == nil {
		return "did you mean " + mended + "? names have lower-case letters, digits and inner hyphens, a letter first"
	}
	return "use lower-case letters, digits and inner hyphens, a letter first, at most 63 characters"
}

func notBlank(s string) *complaint {
	if strings.TrimSpace(s) == "" {
		return &complaint{"empty", "the text is empty", "give it a value, or remove the key where it may be absent"}
	}
	if strings.ContainsRune(s, 0) {
		return &complaint{"bad-value", "the text holds a NUL character", "remove it"}
	}
	return nil
}

func atMost(n int) func(string) *complaint {
	return func(s string) *complaint {
		if len(s) > n {
			return &complaint{"too-large", fmt.Sprintf("the text has %d bytes; at most %d are allowed", len(s), n), "shorten it; move a long script into a file of the repository"}
		}
		return nil
	}
}

// inside accepts paths that cannot leave the checkout.
func inside(s string) *complaint {
	switch {
	case strings.HasPrefix(s, "/") || strings.HasPrefix(s, "~") || len(s) > 1 && s[1] == ':':
		return &complaint{"bad-path", fmt.Sprintf("path %q is absolute", clip(s)), "write it relative to the checkout"}
	case strings.Contains("/"+s+"/", "/../"):
		return &complaint{"bad-path", fmt.Sprintf("path %q leaves the checkout", clip(s)), "write it relative to the checkout, without .."}
	case strings.ContainsAny(s, "\\\n"):
		return &complaint{"bad-path", fmt.Sprintf("path %q has a backslash or line break", clip(s)), "separate folders with /"}
	case strings.ContainsAny(s, "*?"):
		return &complaint{"bad-path", fmt.Sprintf("path %q has a wildcard, which is not expanded", clip(s)), "name the folder or file itself"}
	case path.Clean(s) == ".git" || strings.HasPrefix(path.Clean(s), ".git/"):
		return &complaint{"bad-path", fmt.Sprintf("path %q is Git's own folder", clip(s)), "name the folder that the steps fill"}
	}
	return nil
}

var branchName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]*$`)

func branch(s string) *complaint {
	if !branchName.MatchString(s) || strings.Contains(s, "..") || strings.HasSuffix(s, "/") || strings.HasSuffix(s, ".lock") || strings.HasPrefix(s, "refs/") {
		return &complaint{"bad-name", fmt.Sprintf("%q is not the name of a branch", clip(s)), "write the branch alone, such as main"}
	}
	return nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// variable accepts names of environment variables that Sluice does not set.
func variable(reserved ...string) func(string) *complaint {
	return func(s string) *complaint {
		if !variableName.MatchString(s) || len(s) > 128 {
			return &complaint{"bad-name", fmt.Sprintf("%q is not the name of a variable", clip(s)), "use letters, digits and underscores, no digit first"}
		}
		for _, r := range reserved {
			if s == r || strings.HasSuffix(r, "_") && strings.HasPrefix(s, r) {
				return &complaint{"reserved-name", fmt.Sprintf("variable %s is set by Sluice", clip(s)), "use another name; what is written here would never be seen"}
			}
		}
		return nil
	}
}

var token = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func headerName(s string) *complaint {
	if !token.MatchString(s) || len(s) > 128 {
		return &complaint{"bad-name", fmt.Sprintf("%q is not the name of a header or cookie", clip(s)), "use letters, digits and hyphens, such as X-User"}
	}
	return nil
}

func urlPath(s string) *complaint {
	if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\r\n#") || strings.HasPrefix(s, "//") {
		return &complaint{"bad-path", fmt.Sprintf("%q is not a path of a URL", clip(s)), "begin with one /, without scheme, host, spaces and #: /healthz"}
	}
	return nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// splitAddress takes host:port, :port and [IPv6]:port apart.
func splitAddress(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = s[:i], s[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		return inner, port, closed && strings.Contains(inner, ":")
	}
	return host, port, !strings.ContainsAny(host, ":[]")
}

// address accepts host:port and :port.
func address(s string) *complaint {
	bad := func(why, mend string) *complaint {
		return &complaint{"bad-address", fmt.Sprintf("%q is not an address to listen on: %s", clip(s), why), mend}
	}
	host, port, ok := splitAddress(s)
	if !ok {
		if _, numeric := strconv.Atoi(s); numeric == nil {
			return bad("it has no host", "write 127.0.0.1:"+s+" or :"+s)
		}
		return bad("it is not host:port", "write 127.0.0.1:9001, or [::1]:9001 for IPv6")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return bad(fmt.Sprintf("%q is not a port", clip(port)), "a port is a number of 1 to 65535")
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && !ip.IsMulticast():
		return nil
	case err == nil:
		return bad("it is a multicast address", "listen on an address of the host, such as 127.0.0.1")
	case strings.Trim(host, "0123456789.") == "" || !hostName.MatchString(host) || strings.Contains(host, ".."):
		return bad(fmt.Sprintf("%q is neither an IP address nor a host name", clip(host)), "write 127.0.0.1:"+port+", or :"+port+" for every address")
	}
	return nil
}

// Bounds of numbers.

func above(lo, hi float64) shape { return shape{min: lo, max: hi, above: true} }

func between(lo, hi float64) shape { return shape{min: lo, max: hi, above: true, below: true} }

func finite() shape { return shape{min: math.Inf(-1), max: math.Inf(1)} }
