// Package agenttest is what agents are tested with: a control plane at the wire
// (real HTTP, real signatures, real artifacts) and a service that behaves as its
// environment says.
//
// A test binary that uses [Revision] or [StartAgent] calls [Main] first in its
// TestMain: services and agents are the test binary itself, started again.
package agenttest
