#include "launcher/shards_seen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/files.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ServerOf(uint32_t shard) { return "rank " + std::to_string(shard + 10); }

// What RocksDB's checkpoint leaves.
void WriteShard(const fs::path& commit, uint32_t shard) {
  const fs::path folder = commit / ("shard-" + std::to_string(shard));
  fs::create_directories(folder);
  ASSERT_TRUE(WriteFileAtomically(folder / "MANIFEST-000005", "rows").ok());
  ASSERT_TRUE(WriteFileAtomically(folder / "CURRENT", "MANIFEST-000005\n").ok());
}

// A file system that shows shard `late` at the look after the `after`th.
struct LateView {
  uint32_t late = 0;
  int after = 0;
  int looks = 0;
  std::chrono::milliseconds slept{0};

  ShardsSeenOptions Options() {
    ShardsSeenOptions options;
    options.wait = std::chrono::milliseconds(1000);
    options.pause = std::chrono::milliseconds(100);
    options.look = [this](const fs::path&, uint32_t shard) {
      if (shard != late || ++looks > after) return absl::OkStatus();
      return absl::NotFoundError("no CURRENT");
    };
    options.sleep = [this](std::chrono::milliseconds pause) { slept += pause; };
    return options;
  }
};

TEST(ShardsSeen, AShardThatIsShownLateIsWaitedFor) {
  LateView view{.late = 2, .after = 7};
  EXPECT_TRUE(WaitForShards("commit", 4, ServerOf, view.Options()).ok());
  EXPECT_EQ(view.looks, 8);
  EXPECT_EQ(view.slept.count(), 700);
}

TEST(ShardsSeen, AShardThatNeverShowsIsNamedWithItsServerAfterABoundedTime) {
  LateView view{.late = 2, .after = 1'000'000};
  const absl::Status status = WaitForShards("commit", 4, ServerOf, view.Options());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("shard 2 of rank 12"), HasSubstr("after 1 s"),
                                      HasSubstr("no CURRENT")));
  EXPECT_EQ(view.slept.count(), 1000);
}

TEST(ShardsSeen, NothingIsSleptWhereAllIsThere) {
  const TempFolder folder;
  for (uint32_t shard = 0; shard < 3; ++shard) WriteShard(folder.path(), shard);
  ShardsSeenOptions options;
  options.sleep = [](std::chrono::milliseconds) { ADD_FAILURE() << "slept"; };
  const absl::Status status = WaitForShards(folder.path(), 3, ServerOf, options);
  EXPECT_TRUE(status.ok()) << status;
}

// Real files that come one by one, a look at each stage.
TEST(ShardsSeen, EveryPartOfACheckpointMustBeThere) {
  const TempFolder folder;
  const fs::path shard = folder / "shard-1";
  const auto seen = [&] { return LookForShard(folder.path(), 1); };
  EXPECT_THAT(seen().message(), HasSubstr("no shard-1 in"));
  fs::create_directories(shard);
  EXPECT_THAT(seen().message(), HasSubstr("no CURRENT in"));
  ASSERT_TRUE(WriteFileAtomically(shard / "CURRENT", "").ok());
  EXPECT_THAT(seen().message(), HasSubstr("not whole"));
  ASSERT_TRUE(WriteFileAtomically(shard / "CURRENT", "MANIFEST-000005\n").ok());
  EXPECT_THAT(seen().message(), HasSubstr("no MANIFEST-000005 in"));
  ASSERT_TRUE(WriteFileAtomically(shard / "MANIFEST-000005", "rows").ok());
  EXPECT_TRUE(seen().ok()) << seen();
}

}  // namespace
}  // namespace savior
