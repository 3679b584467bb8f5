#include <glog/logging.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "tests/worker/mpi/job.h"

namespace savior::testing {
namespace {
MpiWorld* world = nullptr;
MpiGroup* group = nullptr;
}  // namespace
MpiWorld& World() { return *world; }
MpiGroup& WorldGroup() { return *group; }
}  // namespace savior::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  auto world = savior::MpiWorld::Open(savior::DeadlineIn(std::chrono::seconds(60)));
  if (!world.ok()) {
    std::cerr << world.status() << "\n";
    return EXIT_FAILURE;
  }
  const auto group = savior::MpiGroup::World(world->get());
  savior::testing::world = world->get();
  savior::testing::group = group.get();
  const int failed = RUN_ALL_TESTS();
  // Where a rank fails the others may wait for it.
  if (failed != 0) (*world)->Abort(failed);
  return failed;
}
