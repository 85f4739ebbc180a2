package artifact

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// syncEach is how many files are made durable one by one. From there on one call
// for the whole filesystem is faster, although it also waits for what others wrote.
const syncEach = 64

// syncAll makes everything in dir's filesystem durable.
func syncAll(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("couldn't make the files durable: %w", err)
	}
	return nil
}
