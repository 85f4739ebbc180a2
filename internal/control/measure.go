package control

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// What the loops say of themselves at /metrics, by kind of row. Lateness is from
// when a row was due to when a worker had it; a turn is all that followed.
var (
	lateness = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_wakeup_lateness_seconds", Help: "Time from when a row was due to when a worker took it.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"table"})
	turnSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_turn_seconds", Help: "Time that a worker held a row.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"table"})
)
