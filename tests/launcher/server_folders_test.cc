// The folders of servers that an earlier start had and this one has not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/files.h"
#include "launcher/run_store.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<ShardHost> OpenServer(const fs::path& folder) {
  auto host = ShardHost::Open({.tables = {IdTable("t", 4, Optimizer(OptimizerKind::kSgd))},
                               .ram_budget_bytes = uint64_t{1} << 20,
                               .folder = folder});
  EXPECT_TRUE(host.ok()) << host.status();
  return *std::move(host);
}

std::vector<std::string> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

TEST(ServerFolders, OfAnEarlierStartWithMoreServersAreRemoved) {
  const TempFolder live;
  for (const char* name : {"server-0", "server-1", "server-2", "server-11"}) {
    OpenServer(live / name);
  }
  RemoveUnusedServerFolders(live.path(), 2);
  EXPECT_THAT(NamesIn(live.path()), ElementsAre("server-0", "server-1"));
  EXPECT_TRUE(fs::exists(live / "server-1" / "shard-0")) << "it belongs to this start";
  RemoveUnusedServerFolders(live.path(), 0);
  EXPECT_THAT(NamesIn(live.path()), ElementsAre());
  RemoveUnusedServerFolders(live / "nowhere", 0);
}

TEST(ServerFolders, OfALiveProcessAreLeftAlone) {
  const TempFolder live;
  const auto other = OpenServer(live / "server-3");
  RemoveUnusedServerFolders(live.path(), 1);
  EXPECT_TRUE(fs::exists(live / "server-3" / "shard-0" / "CURRENT"));
  const absl::Status status = RemoveLiveFolder(live / "server-3");
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("is locked by process"));
}

TEST(ServerFolders, WhatIsNotOursIsLeftAlone) {
  const TempFolder live;
  const TempFolder elsewhere;
  OpenServer(elsewhere.path());
  fs::create_directories(live / "server-8");  // no lock in it
  ASSERT_TRUE(WriteFileAtomically(live / "server-8" / "letter", "dear").ok());
  ASSERT_TRUE(WriteFileAtomically(live / "server-9", "a file").ok());
  fs::create_directory_symlink(elsewhere.path(), live / "server-7");
  for (const char* name : {"server-", "server-07", "server-+7", "server-7b", "my-server-7"}) {
    OpenServer(live / name);
  }
  const std::vector<std::string> before = NamesIn(live.path());
  RemoveUnusedServerFolders(live.path(), 0);
  EXPECT_EQ(NamesIn(live.path()), before);
  EXPECT_TRUE(fs::exists(live / "server-8" / "letter"));
  EXPECT_TRUE(fs::exists(elsewhere / "shard-0"));
  // Ours, with something of another's in it.
  OpenServer(live / "server-6");
  ASSERT_TRUE(WriteFileAtomically(live / "server-6" / "letter", "dear").ok());
  RemoveUnusedServerFolders(live.path(), 0);
  EXPECT_THAT(NamesIn(live / "server-6"), ElementsAre("letter"));
}

}  // namespace
}  // namespace savior
