// `savior train` as one process of many, started by mpirun or srun.
//
//   1 cards       every process says who it is; all compute the same placement (cluster.h)
//   2 control     rank 0 starts the coordinator; all connect to it (control.h)
//   3 agreement   the lead worker says from what the run starts: it has prepared the data by then
//   4 tables      servers open their shards and say where they listen; workers connect
//   5 the run     launcher/training_run.h in every worker; servers serve until all workers are done
//
// MPI carries steps 1 to 4 and what workers do together; rows and control go over ZeroMQ. Each of
// the steps has a deadline, or ends when the coordinator finds a process dead. Keys: every process
// makes its own pair and never tells the secret one; step 1 hands the public ones round, and a
// server lets in those only.
#pragma once

#include <ostream>
#include <string>

#include "common/config.h"
#include "common/status.h"
#include "launcher/training_run.h"
#include "worker/eval/evaluation.h"

namespace savior {

// Takes this process's role in the run, from start to end. `role`: --role, or empty. The result is
// the lead worker's; others get an empty one. kCancelled: all have stopped. Any other error, of this
// process or of another one, ends the process: with the exit code of whoever failed first, after
// rank 0 has said why.
[[nodiscard]] absl::StatusOr<EvalResult> TrainInCluster(const Config& config,
                                                        const std::string& role,
                                                        const RunOptions& options,
                                                        std::ostream& out);

}  // namespace savior
