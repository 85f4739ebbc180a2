// Package source reads local Git repositories: which commit a name means, what
// is in it, and a clean checkout of exactly that commit.
//
// # Invariants
//
//   - Only committed content counts. The working tree is looked at in [Dirty]
//     alone, so that a caller can warn; a checkout never contains it.
//   - A repository is data, not a program. Git's configuration can name
//     commands (hooks, filters, fsmonitor, pagers, diff drivers, credential and
//     signature programs); none of those of the repository, the user or the
//     machine runs. Replacement objects are off, and nothing is fetched.
//   - A checkout stands alone: its .git has the one commit, without history
//     (shallow), remotes, alternates, hooks or credentials. It was filled
//     through a pack, not by copying or linking the original's .git, and nothing
//     written in it reaches the original.
//   - What a checkout could not contain is an error and not a gap: submodules,
//     and files whose attributes ask for a filter such as Git LFS.
//   - Every answer of git is bounded in size, and ends with the context.
//
// # Failure behaviour
//
// [ErrNoGit], [ErrNoRepository], [ErrNoCommit] and [ErrNoFile] tell a user's
// mistakes from failures. A checkout that fails half-way removes what it made.
package source
