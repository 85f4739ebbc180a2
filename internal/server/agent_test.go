package server_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/internal/agent"
	"github.com/sluicehq/sluice/internal/evidence"
	"github.com/sluicehq/sluice/internal/machinetest"
	"github.com/sluicehq/sluice/internal/server"
)

// agentFolder, in the environment, makes this program an agent.
const agentFolder = "SLUICE_TEST_AGENT"

func beAgent(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	key, err := evidence.Generate(evidence.PurposePromotion)
	if err != nil {
		return 1
	}
	err = agent.Run(ctx, agent.Config{
		Server: "http://127.0.0.1:9", Token: "a token that nobody takes", Host: "test", DataDir: dir,
		TrustKeys: []evidence.PublicKey{key.Public()}, DrainOnExit: time.Second, Logger: slog.New(slog.DiscardHandler),
		TakeOver: slices.Contains(os.Args, "--take-over"),
	})
	if err != nil {
		return 1
	}
	return 0
}

func agentProcess(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentFolder+"="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// A server that was killed between starting its agent and noting it leaves an
// agent that only the lock of the agent's folder names: Down finds it.
func TestDownFindsAnAgentThatNobodyNoted(t *testing.T) {
	dir := t.TempDir()
	cmd := agentProcess(t, filepath.Join(dir, "agent"))
	machinetest.Until(t, "the agent has its folder", func() bool {
		pid, held := agent.Holder(filepath.Join(dir, "agent"))
		return held && pid == cmd.Process.Pid
	})
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	found, err := server.Folder(dir).Down(context.Background())
	if err != nil || !found {
		t.Fatalf("Down: found %v, %v", found, err)
	}
	select {
	case <-ended:
	case <-time.After(machinetest.Patience):
		t.Fatal("the agent still runs")
	}
	if _, held := agent.Holder(filepath.Join(dir, "agent")); held {
		t.Error("the folder is still held")
	}
	if _, err := os.Stat(filepath.Join(dir, "agent.json")); err == nil {
		t.Error("a note is left")
	}
}
