package webui

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/sluicehq/sluice/internal/control"
)

// chart is what uPlot draws: columns over time. A bin without a request has no
// rate, which is a gap and not a zero.
type chart struct {
	Time    []int64    `json:"t"`   // Unix milliseconds
	Canary  []*float64 `json:"c"`   // errors, percent
	Stable  []*float64 `json:"b"`   // errors, percent
	Canary9 []*float64 `json:"c99"` // milliseconds
	Stable9 []*float64 `json:"b99"`
	Weight  []float64  `json:"w"` // percent

	Points []control.Point `json:"-"`
}

func newChart(points []control.Point) *chart {
	if len(points) == 0 {
		return nil
	}
	c := &chart{Points: points}
	for _, p := range points {
		c.Time = append(c.Time, p.At.UnixMilli())
		c.Canary = append(c.Canary, share(p.KC, p.NC))
		c.Stable = append(c.Stable, share(p.KB, p.NB))
		c.Canary9 = append(c.Canary9, millis(p.C99, p.NC))
		c.Stable9 = append(c.Stable9, millis(p.B99, p.NB))
		c.Weight = append(c.Weight, float64(p.W)/100)
	}
	return c
}

func share(bad, all int64) *float64 {
	if all <= 0 {
		return nil
	}
	v := math.Round(1e6*float64(bad)/float64(all)) / 1e4
	return &v
}

func millis(seconds float64, all int64) *float64 {
	if all <= 0 || seconds <= 0 || math.IsInf(seconds, 0) || math.IsNaN(seconds) {
		return nil
	}
	v := math.Round(seconds*1e5) / 100
	return &v
}

// data is the chart as JSON.
func (c *chart) data() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "{}" // only numbers are in it, none of which is infinite
	}
	return string(b)
}

// words tells what the chart shows to those who don't see it.
func (c *chart) words() string {
	var kc, nc, kb, nb int64
	for _, p := range c.Points {
		kc, nc, kb, nb = kc+p.KC, nc+p.NC, kb+p.KB, nb+p.NB
	}
	return fmt.Sprintf("Over %s: candidate %s errors of %s requests (%s), stable %s of %s (%s).",
		plural(len(c.Points), "bin", "bins"), count(kc), count(nc), rate(kc, nc), count(kb), count(nb), rate(kb, nb))
}

// last are the newest points, newest first, for the table.
func (c *chart) last(n int) []control.Point {
	var out []control.Point
	for i := len(c.Points) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, c.Points[i])
	}
	return out
}
