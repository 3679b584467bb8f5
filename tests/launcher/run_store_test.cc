// Both kinds of a run's store, as the refresh of a codebook uses them.
#include "launcher/run_store.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "launcher/remote_run_store.h"
#include "tests/common/temp_folder.h"
#include "tests/worker/remote/served_store.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr uint32_t kOld = ServedStore::kCodebookVersion;

TEST(RunStore, InThisProcessASwitchIsDoneAndTheBackgroundIsTheSame) {
  const TempFolder folder;
  Config config;
  config.ps.ram_budget_mb = 16;
  const auto run = OpenLocalStore(config, folder / "live", {});
  ASSERT_TRUE(run.ok()) << run.status();
  RunStore& store = **run;
  const std::vector<uint64_t> keys = Keys(0, 10);
  const uint32_t dim = store.store().tables()[kAlignTable].dim;
  ASSERT_TRUE(
      PushRows(store.store(), 0, kAlignTable, keys, std::vector<float>(10 * dim, 1.0f)).ok());
  EXPECT_TRUE(store.SwitchCodebook(1, Soon()).ok());
  store.UseCodebook(1);
  EXPECT_EQ(&store.background(), &store.store());
  const Pulled rows = ReadWhole(store.background(), kAlignTable, keys);
  EXPECT_EQ(rows.updates, std::vector<uint32_t>(10, 1));
  ASSERT_TRUE(WriteWhole(store.background(), 0, kAlignTable, Keys(50, 60), rows).ok());
  EXPECT_EQ(PullRows(store.store(), kAlignTable, Keys(50, 60)),
            PullRows(store.store(), kAlignTable, keys));
}

TEST(RunStore, OverTheNetworkBothStoresSwitch) {
  ServedStore served({.tables = {AlignSpec("t", 4)}, .shards = 2, .steps = StepRules{}});
  const auto connect = [&] {
    auto store = RemoteRunStore::Connect(&served.context(), served.ClientOptions(), {"a", "b"});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  };
  const auto lead = connect(), other = connect();
  const std::vector<uint64_t> keys = Keys(0, 20);
  ASSERT_TRUE(PushRows(lead->store(), 0, 0, keys, std::vector<float>(80, 1.0f)).ok());
  const Pulled rows = ReadWhole(lead->background(), 0, keys);
  EXPECT_EQ(rows.updates, std::vector<uint32_t>(20, 1));
  EXPECT_NE(&lead->background(), &lead->store());
  EXPECT_EQ(&lead->background(), &lead->background());
  // A pull of the loop that waits keeps nobody in the background from reading.
  std::vector<float> out(80);
  const TablePull pull{.table = 0, .keys = keys, .rows = out};
  const auto early = lead->store().StartPull(5, {&pull, 1}, DeadlineIn(std::chrono::seconds(1)));
  ASSERT_TRUE(early.ok());
  EXPECT_EQ(ReadWhole(lead->background(), 0, keys), rows);
  EXPECT_FALSE(lead->SwitchCodebook(kOld + 1, Soon()).ok()) << "a call is under way";
  EXPECT_FALSE(lead->store().Finish(*early).ok());

  ASSERT_TRUE(lead->SwitchCodebook(kOld + 1, Soon()).ok());
  EXPECT_EQ(ReadWhole(lead->background(), 0, keys), rows);
  EXPECT_EQ(ReadWhole(lead->store(), 0, keys), rows);
  EXPECT_TRUE(absl::IsFailedPrecondition(other->store().Stats(Soon()).status()));
  other->UseCodebook(kOld + 1);
  EXPECT_TRUE(other->store().Stats(Soon()).ok());
  // Made after the switch.
  EXPECT_EQ(ReadWhole(other->background(), 0, keys), rows);
  other->UseCodebook(kOld);
  EXPECT_TRUE(absl::IsFailedPrecondition(other->background().Stats(Soon()).status()));
}

}  // namespace
}  // namespace savior
