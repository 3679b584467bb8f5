// The MPI job that a test program is a rank of.
#pragma once

#include <chrono>
#include <memory>

#include "common/clock.h"
#include "worker/mpi_group.h"
#include "worker/mpi_world.h"

namespace savior::testing {

// Made by main(), alive for all tests. Every rank runs the same tests in the same order.
MpiWorld& World();
MpiGroup& WorldGroup();

inline Deadline Soon() { return DeadlineIn(std::chrono::seconds(30)); }

// A group of all ranks for one test, which may ruin it.
inline std::unique_ptr<MpiGroup> OwnGroup() {
  return WorldGroup().Split(0, WorldGroup().rank(), Soon()).value();
}

// Ranks go on together.
inline void Barrier() { WorldGroup().Allgather("", Soon()).value(); }

}  // namespace savior::testing
