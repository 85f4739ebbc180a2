package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/release"
)

// BenchmarkVerify prints statements per second; the budget is 5 000 on 2 cores.
func BenchmarkVerify(b *testing.B) {
	for name, signer := range map[string]func() crypto.Signer{
		"ed25519": func() crypto.Signer { _, k, _ := ed25519.GenerateKey(rand.Reader); return k },
		"p256":    func() crypto.Signer { return p256(b) },
	} {
		for _, workers := range []int{1, 0} {
			b.Run(fmt.Sprintf("%s/workers=%d", name, workers), func(b *testing.B) {
				l := newLog(b, "default")
				k, err := evidence.NewKey(evidence.PurposeStatements, signer())
				if err != nil {
					b.Fatal(err)
				}
				points, err := evidence.Generate(evidence.PurposeCheckpoints)
				if err != nil {
					b.Fatal(err)
				}
				if l.keys, err = evidence.NewKeyRing(k, points); err != nil {
					b.Fatal(err)
				}
				const n = 5000
				for i := range n {
					m, id := manifest(b, "default", fmt.Sprint(i/20))
					weight := i
					_ = id
					l.add(evidence.RolloutStep{Event: event(evidence.ActorID(release.System), "prod"), Rollout: "ro1", Revision: int64(i), Kind: evidence.StepWeight, Weight: &weight, Observed: true}, evidence.Subjects(m, id)...)
				}
				bundle := l.export()
				b.SetBytes(int64(len(bundle)))
				b.ResetTimer()
				for range b.N {
					r, err := evidence.Verify(bytes.NewReader(bundle), evidence.VerifyOptions{Workers: workers})
					if err != nil || !r.OK || r.Verified != n {
						b.Fatalf("got %+v, %v", r, err)
					}
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "statements/s")
			})
		}
	}
}
