package wire

import (
	"math"
	"time"
)

// Latency is counted in exponential buckets as of a Prometheus native histogram
// of schema 3: bucket i holds seconds in (2^((i-1)/8), 2^(i/8)].
const perOctave = 8

const (
	minLatencyIndex = -17 * perOctave // about 8 µs
	maxLatencyIndex = 9 * perOctave   // 512 s
)

// LatencyIndex returns the bucket that d falls in.
func LatencyIndex(d time.Duration) int {
	if d <= 0 {
		return minLatencyIndex
	}
	i := int(math.Ceil(math.Log2(d.Seconds()) * perOctave))
	return max(minLatencyIndex, min(i, maxLatencyIndex))
}

// LatencyEdge returns the upper edge of bucket i in seconds.
func LatencyEdge(i int) float64 { return math.Exp2(float64(i) / perOctave) }
