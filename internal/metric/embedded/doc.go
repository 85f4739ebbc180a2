// Package embedded keeps what agents scrape in a Prometheus TSDB, and answers
// PromQL about it, as a real Prometheus would: the same query works in both.
//
// Samples are stamped when they arrive, by a clock that does not jump while the
// process lives: two hosts whose clocks differ would else make each other look
// stale. A query is evaluated at the time of the newest sample, and a series is
// looked back for 2.5 scrape intervals only: Prometheus' default of five minutes
// shows a dead canary as alive.
//
// Every series gets the labels project, service, environment, revision (the
// first twelve digits of the release) and instance; labels of these names that
// an instance sends itself are kept as exported_NAME.
//
// # Whose series
//
// [Bind] narrows every selector of a query to one service in one environment, so
// that nobody is judged by another's numbers; a query that names another is
// refused.
//
// # No data
//
// A query without a series is [ErrNothing], whose text says why: nobody was
// scraped, an instance answered something else than metrics, the newest sample is
// old, or no series has that name. NaN comes as NaN. What to make of it is the
// judge's: it is never a pass.
package embedded
