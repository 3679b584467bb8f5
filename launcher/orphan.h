// Processes that must not outlive the one that started them.
#pragma once

namespace savior {

// From now on the system kills this process (SIGKILL) when the thread that started it ends: the
// daemon of mpirun or Slurm on this node, which watches over it and which, killed itself, could
// not. Ends the process at once if that has happened already. Thread-safe; for main(), first of
// all, where MpiWorld::LaunchedByMpi(). A shell between daemon and process hides the daemon's end:
// `mpirun sh -c 'savior ...; ...'` is not protected, `mpirun savior ...` and `mpirun env ...
// savior` are.
void DieWithParent();

}  // namespace savior
